"""Amounts and currencies in text."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_SIGNS = {"£": "GBP", "$": "USD", "€": "EUR", "¥": "JPY", "₹": "INR"}
_WORDS = {
    "pound": "GBP",
    "pounds": "GBP",
    "quid": "GBP",
    "sterling": "GBP",
    "euro": "EUR",
    "euros": "EUR",
    "dollar": "USD",
    "dollars": "USD",
    "bucks": "USD",
    "yen": "JPY",
    "rupee": "INR",
    "rupees": "INR",
    "franc": "CHF",
    "francs": "CHF",
    "zloty": "PLN",
    "rand": "ZAR",
    "yuan": "CNY",
}
_QUALIFIED = {
    "australian dollar": "AUD",
    "canadian dollar": "CAD",
    "new zealand dollar": "NZD",
    "hong kong dollar": "HKD",
    "singapore dollar": "SGD",
    "swedish krona": "SEK",
    "norwegian krone": "NOK",
    "danish krone": "DKK",
    "czech koruna": "CZK",
    "turkish lira": "TRY",
    "mexican peso": "MXN",
    "swiss franc": "CHF",
    "us dollar": "USD",
    "american dollar": "USD",
    "british pound": "GBP",
    "pound sterling": "GBP",
    "pounds sterling": "GBP",
}
# fmt: off
_CODES = frozenset(
    {
        "AED", "ARS", "AUD", "BGN", "BHD", "BRL", "CAD", "CHF", "CLP", "CNY", "COP", "CZK",
        "DKK", "EGP", "EUR", "GBP", "HKD", "HUF", "IDR", "ILS", "INR", "ISK", "JOD", "JPY",
        "KES", "KRW", "KWD", "MAD", "MXN", "MYR", "NGN", "NOK", "NZD", "OMR", "PEN", "PHP",
        "PKR", "PLN", "QAR", "RON", "RSD", "SAR", "SEK", "SGD", "THB", "TND", "TRY", "TWD",
        "UAH", "USD", "UYU", "VND", "ZAR",
    }
)
# fmt: on
_ENGLISH_WORDS = frozenset({"COP", "MAD", "PEN", "RON", "TRY"})
"""Codes that are words in lower case: they count in capitals only."""

_MINOR_DIGITS = dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "VND"), 0) | dict.fromkeys(
    ("BHD", "JOD", "KWD", "OMR", "TND"), 3
)
"""Decimal places that are not 2. Source: ISO 4217."""

_NUMBER = r"\d{1,3}(?:([,. ])\d{3})+(?:[.,]\d{1,3})?|\d+(?:[.,]\d{1,3})?"
_UNITS = "|".join(
    [f"{name}s?" for name in sorted(_QUALIFIED, key=len, reverse=True)]
    + sorted(_WORDS, key=len, reverse=True)
    + [code.lower() for code in sorted(_CODES - _ENGLISH_WORDS)]
)
_BEFORE = re.compile(
    rf"(?:(?P<sign>[£$€¥₹])|\b(?P<unit>{_UNITS}))\s?(?P<number>{_NUMBER})(?!\d)", re.IGNORECASE
)
_AFTER = re.compile(
    rf"(?<![\d.,])(?P<number>{_NUMBER})\s?(?:(?P<sign>[£$€¥₹])|(?P<unit>{_UNITS})\b)", re.IGNORECASE
)
_BARE = re.compile(rf"(?<![\w.,/-])(?P<number>{_NUMBER})(?![\w/-]|[.,]\d)")
_NAMED = re.compile(rf"(?P<sign>[£$€¥₹])|\b(?P<unit>{_UNITS})\b", re.IGNORECASE)
_CAPITALS = re.compile(rf"\b(?:{'|'.join(sorted(_ENGLISH_WORDS))})\b")

_LARGEST = 10**15


def find_amounts(text: str, *, bare: bool = False) -> list[int]:
    """Return the amounts in `text` in minor units of their currency.

    Args:
        text: What the user said.
        bare: A number without a currency counts too, if there is no other; it has two decimal
            places.
    """
    found = [
        _minor_units(match["number"], _code(match["sign"], match["unit"]))
        for pattern in (_BEFORE, _AFTER)
        for match in pattern.finditer(text)
    ]
    if not found and bare:
        code = next(iter(find_currencies(text)), None)
        found = [_minor_units(match["number"], code) for match in _BARE.finditer(text)]
    return [amount for amount in found if amount is not None]


def find_currencies(text: str) -> list[str]:
    """Return the ISO 4217 codes of the currencies `text` names, in order."""
    found = [_code(match["sign"], match["unit"]) for match in _NAMED.finditer(text)]
    return [*found, *_CAPITALS.findall(text)]


def _code(sign: str | None, unit: str | None) -> str:
    if sign:
        return _SIGNS[sign]
    name = (unit or "").lower()
    return _QUALIFIED.get(name) or _QUALIFIED.get(name[:-1]) or _WORDS.get(name) or name.upper()


def _minor_units(number: str, code: str | None) -> int | None:
    digits = _MINOR_DIGITS.get(code or "", 2)
    point = _decimal_point(number)
    plain = "".join(
        "." if at == point else c for at, c in enumerate(number) if at == point or c.isdigit()
    )
    try:
        value = Decimal(plain).scaleb(digits)
    except InvalidOperation:
        return None
    return int(value) if value == value.to_integral_value() and value <= _LARGEST else None


def _decimal_point(number: str) -> int | None:
    """Return where the decimal mark stands: the last mark, unless it groups thousands."""
    marks = [at for at, character in enumerate(number) if not character.isdigit()]
    if not marks:
        return None
    last = marks[-1]
    groups_of_three = len(number) - last - 1 == 3
    if groups_of_three and (number[last] in ", " or len(marks) > 1):
        return None
    return last if number[last] in ".," else None
