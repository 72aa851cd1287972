"""Which runs of digits are payment cards, social security numbers, phones, or just long numbers.

Rules:
- Dates and IPv4 addresses are none of them.
- A card has an issuer's prefix and length and passes the Luhn check; it is also found between other
  groups of digits; those beside it are a `number`, however short.
- A phone number has a form only phones have (a leading ``+`` or trunk ``0``, a bracketed area code,
  groups of 3-3-4 …), or a word like "call" or "fax" beside it. A house number and a postcode have
  the same digits as a local phone number, so without such a word they are left alone.
- What remains is a `number` if it has nine digits or more.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import accumulate

from mlflow_agent_plugin.entities.sensitive.checksums import card_valid
from mlflow_agent_plugin.entities.sensitive.values import DataClass

# Spaces, dashes and invisible characters people put between digits; never a line break.
_BETWEEN = r" ().\-/\u00a0\u2007\u2009\u200b-\u200d\u2010-\u2013\u202f\u2060\ufeff"
_RUN = re.compile(rf"(?<!\d)\+?\(?\d(?:[{_BETWEEN}]{{0,3}}\d){{6,63}}(?!\d)")
_DATE = re.compile(
    r"(?<!\d)(?:(?:1[6-9]|2[01])\d\d([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2(?:1[6-9]|2[01])\d\d)"
    r"(?!\d)(?: \d\d?(?=:))?"
)
_SSN = re.compile(r"(?<![\w-])(?!000|666)\d{3}([- .])(?!00)\d\d\1(?!0000)\d{4}(?![\w-])")
_BARE_SSN = re.compile(r"(?<![\w-])(?!000|666)\d{3}(?!00)\d\d(?!0000)\d{4}(?![\w-])")
_SSN_WORD = re.compile(r"\b(?:ssn|social security)\b", re.IGNORECASE)
_GROUP = re.compile(r"\d+")
_EXTENSION = re.compile(r" ?(?:x|ext\.? ?)\d{1,6}(?!\w)", re.IGNORECASE)
_WORD_BEFORE = re.compile(
    r"\b(?:phone|telephone|tel|mobile|cell|cellphone|fax|desk|call|calls|calling|called|dial|ring"
    r"|reach|reached|text|texts|sms|whatsapp|contact|answering|messages?)\b",
    re.IGNORECASE,
)
_WORD_AFTER = re.compile(r"\W{0,3}(?:office|fax|mobile|home|work|cell|desk)\b", re.IGNORECASE)
_WORDS_BEFORE_CHARS = 40
_ASCII_DIGITS = {ord(a): b for a, b in zip("٠١٢٣٤٥٦٧٨٩", "0123456789", strict=True)} | {
    ord(a): b
    for a, b in zip("０１２３４５６７８９", "0123456789", strict=True)  # noqa: RUF001
}

Found = tuple[DataClass, int, int]


def find_numbers(text: str) -> Iterator[Found]:
    """Yield (class, start, end) of every sensitive run of digits in `text`, from left to right."""
    for run in _RUN.finditer(text):
        start = run.start()
        for date in _DATE.finditer(text, run.start(), run.end()):
            yield from _piece(text, start, date.start())
            start = date.end()
        yield from _piece(text, start, run.end())


def _piece(text: str, start: int, end: int) -> Iterator[Found]:
    """Find what stands between two dates, or in a whole run."""
    groups = [group.span() for group in _GROUP.finditer(text, start, end)]
    if sum(b - a for a, b in groups) < 7:
        return
    cards = list(_cards(text, groups))
    if not cards:
        yield from _other(text, start, groups)
        return
    first = 0
    for low, high in [*cards, (len(groups), len(groups))]:
        # What stands beside a card is its expiry date, or the rest of a longer number.
        if first < low:
            yield DataClass.NUMBER, groups[first][0], groups[low - 1][1]
        if low < high:
            yield DataClass.CARD, groups[low][0], groups[high - 1][1]
        first = high


def _cards(text: str, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the slices of `groups` that make a card number, the longest first at each place."""
    digits = "".join(text[a:b] for a, b in groups).translate(_ASCII_DIGITS)
    offsets = list(accumulate((b - a for a, b in groups), initial=0))
    low = 0
    while low < len(groups):
        start = offsets[low]
        # A card's digits: 12 to 19 of them, in whole groups.
        fitting = range(
            bisect_right(offsets, start + 19) - 1, bisect_left(offsets, start + 12) - 1, -1
        )
        high = next((end for end in fitting if card_valid(digits[start : offsets[end]])), None)
        if high is None or (low == 0 and _is_identifier(text, groups[0][0])):
            low += 1
            continue
        yield low, high
        low = high


def _is_identifier(text: str, start: int) -> bool:
    """Whether one or two letters lead the digits ("U6292…"); a whole word may ("card4111…")."""
    return _letter(text[start - 1 : start]) and not text[max(0, start - 3) : start].isalpha()


def _letter(character: str) -> bool:
    return character.isalpha() or character == "_"


def _other(text: str, start: int, groups: list[tuple[int, int]]) -> Iterator[Found]:
    """Find a number that is not a card: social security, phone, or just long."""
    low, high = groups[0][0], groups[-1][1]
    sizes = [b - a for a, b in groups]
    count = sum(sizes)
    if count < 7 or _letter(text[low - 1 : low]) or _is_ipv4(text[low:high]):
        return
    ssn = _SSN.search(text, low, high)
    if ssn is None and count == 9 and _SSN_WORD.search(text, max(0, low - 60), low):
        ssn = _BARE_SSN.search(text, low, high)
    if ssn is not None:
        yield DataClass.US_SSN, ssn.start(), ssn.end()
        return
    opened = low
    while opened > start and text[opened - 1] in "+(":
        opened -= 1
    if count <= 15 and (
        _phone_shaped(text[opened:high], sizes) or (count <= 12 and _named(text, opened, high))
    ):
        extension = _EXTENSION.match(text, high)
        yield DataClass.PHONE, opened, high if extension is None else extension.end()
    elif count >= 9:
        yield DataClass.NUMBER, opened, high


def _phone_shaped(piece: str, sizes: list[int]) -> bool:
    count = sum(sizes)
    if piece[0] == "+" or (piece.startswith("00") and count >= 10):
        return True
    if piece[0] == "(" and ")" in piece:
        return True
    if piece[0] == "0" and 9 <= count <= 11:
        return len(sizes) > 1 or count >= 10
    if sizes in ([3, 3, 4], [1, 3, 3, 4], [3, 3, 3], [2, 3, 3, 4], [2, 3, 2, 2]):
        return True
    return (sizes == [3, 4] and piece[3] == "-") or sizes in ([2] * 4, [2] * 5)


def _named(text: str, start: int, end: int) -> bool:
    before = _WORD_BEFORE.search(text, max(0, start - _WORDS_BEFORE_CHARS), start)
    return before is not None or _WORD_AFTER.match(text, end) is not None


def _is_ipv4(piece: str) -> bool:
    if piece.count(".") != 3:
        return False
    try:
        IPv4Address(piece)
    except ValueError:
        return False
    return True
