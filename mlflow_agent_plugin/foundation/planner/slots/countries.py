"""Countries in text, by their English names. Source of the codes: ISO 3166-1 alpha-2."""

from __future__ import annotations

import re
from functools import cache

_NAMES = """
AD Andorra|AE United Arab Emirates|AF Afghanistan|AG Antigua and Barbuda|AL Albania|AM Armenia
AO Angola|AR Argentina|AT Austria|AU Australia|AZ Azerbaijan|BA Bosnia and Herzegovina|BA Bosnia
BB Barbados|BD Bangladesh|BE Belgium|BF Burkina Faso|BG Bulgaria|BH Bahrain|BI Burundi|BJ Benin
BN Brunei|BO Bolivia|BR Brazil|BS Bahamas|BT Bhutan|BW Botswana|BY Belarus|BZ Belize|CA Canada
CD Democratic Republic of the Congo|CF Central African Republic|CG Congo|CH Switzerland
CI Ivory Coast|CL Chile|CM Cameroon|CN China|CO Colombia|CR Costa Rica|CU Cuba|CV Cape Verde
CY Cyprus|CZ Czech Republic|CZ Czechia|DE Germany|DJ Djibouti|DK Denmark|DM Dominica
DO Dominican Republic|DZ Algeria|EC Ecuador|EE Estonia|EG Egypt|ER Eritrea|ES Spain|ET Ethiopia
FI Finland|FJ Fiji|FM Micronesia|FR France|GA Gabon|GB United Kingdom|GB Great Britain|GB Britain
GB England|GB Scotland|GB Wales|GB Northern Ireland|GD Grenada|GE Georgia|GH Ghana|GM Gambia
GN Guinea|GQ Equatorial Guinea|GR Greece|GT Guatemala|GW Guinea-Bissau|GY Guyana|HK Hong Kong
HN Honduras|HR Croatia|HT Haiti|HU Hungary|ID Indonesia|IE Ireland|IL Israel|IN India|IQ Iraq
IR Iran|IS Iceland|IT Italy|JM Jamaica|JO Jordan|JP Japan|KE Kenya|KG Kyrgyzstan|KH Cambodia
KI Kiribati|KM Comoros|KN Saint Kitts and Nevis|KP North Korea|KR South Korea|KW Kuwait
KZ Kazakhstan|LA Laos|LB Lebanon|LC Saint Lucia|LI Liechtenstein|LK Sri Lanka|LR Liberia
LS Lesotho|LT Lithuania|LU Luxembourg|LV Latvia|LY Libya|MA Morocco|MC Monaco|MD Moldova
ME Montenegro|MG Madagascar|MH Marshall Islands|MK North Macedonia|ML Mali|MM Myanmar|MN Mongolia
MO Macau|MR Mauritania|MT Malta|MU Mauritius|MV Maldives|MW Malawi|MX Mexico|MY Malaysia
MZ Mozambique|NA Namibia|NE Niger|NG Nigeria|NI Nicaragua|NL Netherlands|NL Holland|NO Norway
NP Nepal|NR Nauru|NZ New Zealand|OM Oman|PA Panama|PE Peru|PG Papua New Guinea|PH Philippines
PK Pakistan|PL Poland|PR Puerto Rico|PS Palestine|PT Portugal|PW Palau|PY Paraguay|QA Qatar
RO Romania|RS Serbia|RU Russia|RW Rwanda|SA Saudi Arabia|SB Solomon Islands|SC Seychelles|SD Sudan
SE Sweden|SG Singapore|SI Slovenia|SK Slovakia|SL Sierra Leone|SM San Marino|SN Senegal|SO Somalia
SR Suriname|SS South Sudan|ST Sao Tome and Principe|SV El Salvador|SY Syria|SZ Eswatini|TD Chad
TG Togo|TH Thailand|TJ Tajikistan|TL East Timor|TM Turkmenistan|TN Tunisia|TO Tonga|TR Turkey
TR Türkiye|TT Trinidad and Tobago|TV Tuvalu|TW Taiwan|TZ Tanzania|UA Ukraine|UG Uganda
US United States of America|US United States|US America|UY Uruguay|UZ Uzbekistan|VA Vatican City
VC Saint Vincent and the Grenadines|VE Venezuela|VN Vietnam|VU Vanuatu|WS Samoa|XK Kosovo|YE Yemen
ZA South Africa|ZM Zambia|ZW Zimbabwe
"""

_SHORT = {
    "US": "US",
    "U.S.": "US",
    "USA": "US",
    "U.S.A.": "US",
    "UK": "GB",
    "U.K.": "GB",
    "UAE": "AE",
}
"""Short forms: in capitals (us is a word), except usa, uk and uae, which are no words."""


def find_countries(text: str) -> list[str]:
    """Return the ISO 3166-1 alpha-2 codes of the countries `text` names; longer names win."""
    names, pattern, short = _tables()
    found = [names[match[0].casefold()] for match in pattern.finditer(text)]
    return found + [_SHORT[match[0].upper()] for match in short.finditer(pattern.sub(" ", text))]


@cache
def _tables() -> tuple[dict[str, str], re.Pattern[str], re.Pattern[str]]:
    entries = [entry.strip() for line in _NAMES.strip().splitlines() for entry in line.split("|")]
    names = {entry[3:].casefold(): entry[:2] for entry in entries}
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(
        r"\b(?:" + "|".join(re.escape(name) for name in longest_first) + r")\b", re.IGNORECASE
    )
    short = re.compile(r"(?<!\w)(?:U\.S\.A\.|U\.S\.|U\.K\.|US|(?i:usa|uk|uae))(?!\w)")
    return names, pattern, short
