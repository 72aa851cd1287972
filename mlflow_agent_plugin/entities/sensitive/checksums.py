"""Check digits of payment cards and IBANs, and the shapes card numbers come in."""

from __future__ import annotations

import re

# Issuer prefix and length: Visa; Mastercard; American Express and Diners; JCB; Discover, UnionPay
# and Maestro.
_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"
    r"|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|09|[689]\d)\d{11,16}"
    r"|35\d{14,17}|(?:1800|2131)\d{11}"
    r"|6\d{11,18}|5[0678]\d{10,17}|0604\d{8,15}",
    re.ASCII,
)


def luhn_valid(digits: str) -> bool:
    """Return whether `digits` (decimal digits only) pass the Luhn check.

    Source: ISO/IEC 7812-1, annex B.
    """
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character)
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def card_valid(digits: str) -> bool:
    """Return whether `digits` look like a card number: issuer prefix, length and Luhn check."""
    return _CARD.fullmatch(digits) is not None and luhn_valid(digits)


_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTH = {
    country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()
}
"""Country code to the length of its IBANs; source: ISO 13616 registry of SWIFT."""


def iban_valid(iban: str) -> bool:
    """Return whether `iban` (no spaces) has its country's length and passes the mod-97 check.

    Source: ISO 13616-1.
    """
    if not iban.isascii() or not iban.isalnum():
        return False
    if IBAN_LENGTH.get(iban[:2].upper()) != len(iban):
        return False
    rearranged = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1
