"""How one value may be spelled in a text, and whether a text holds it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
BETWEEN = "\0"
"""Joins texts; nothing holds it after normalisation, so no value is found across two of them."""
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_CLOCK = re.compile(r"(\d{2}):(\d{2})(?::00(?:\.0+)?)?(?:z|\+00:00)?")
_LINK = re.compile(r"(?:https?://)?(?:www\.)?(.+?)/?")
_NOON = 12
_JOINERS = "-@/_+."
_BEFORE_FIELD = " \"'`([{<*$€£#@"
_AFTER_FIELD = " \"'`)]}>*.!?/"
_BETWEEN_FIELDS = "\n,;:|=•"
_NEAR = 40
"""How far a field's end is looked for beyond quotes and brackets."""
_LINK_HEAD = re.compile(r"(?:https?://)?(?:www\.)?$")
_LINE_BREAK = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029]+")
_LIST_MARKER = re.compile(r"(?m)^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+")
_MONTH = rf"(?:{'|'.join(name for month in _MONTHS for name in (month, month[:3]))})\b\.?"
_MEASURED = re.compile(
    # dates, times and decimals: a number inside is a part of another value. Grouped digits are not
    # among them: "113,140" may be two numbers.
    r"\d{4}-\d{2}-\d{2}(?:[t ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?"
    r"|\d{1,2}[./]\d{1,2}[./]\d{2,4}"
    r"|\d{1,2}:\d{2}(?::\d{2})?"
    r"|\d{1,2} ?[ap]\.?m\b"
    rf"|\b{_MONTH} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?\b"
    # "13 may" is no date for sure: "file 13 may be deleted"
    rf"|\b\d{{1,2}}(?:(?:st|nd|rd|th)? of | (?!may\b)){_MONTH}"
    # bounded, as everything here: a hostile text may be one long number
    r"|(?<!\d)\d{1,15}\.\d{1,15}"
)


def normalise(text: str) -> str:
    """Return `text` in the one spelling in which texts are compared."""
    # NUL stands between texts, so no value may hold one
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\0", " ").split())


def fields_in(text: str) -> str:
    """Return `text` normalised but for its line breaks, which divide fields."""
    lines = (normalise(line) for line in _LINE_BREAK.split(_LIST_MARKER.sub("", text)))
    return "\n".join(line for line in lines if line)


def counted_in(text: str) -> str:
    """Return `text` normalised, without the numbers that are parts of dates, times and amounts.

    In what is left a whole number stands for itself. The numbers of a numbered list go too.
    """
    return _MEASURED.sub("…", normalise(_LIST_MARKER.sub("", text)))


def is_count(needle: str) -> bool:
    """Tell whether a value is a whole number, so that it is looked for in `counted_in`."""
    return needle.isdecimal()


def parts_of(value: Any) -> list[set[str]]:
    """Return the parts that must all be found, each with its spellings.

    A date with a time is two parts; everything else is one.
    """
    if not isinstance(value, str):
        return [_number(value)]
    text = normalise(value)
    if text[:1].isdigit():
        day, _, clock = text.replace("t", " ", 1).partition(" ")
        if _DATE.fullmatch(day) and _CLOCK.fullmatch(clock):
            return [_dates(day), _clocks(clock)]
        if _DATE.fullmatch(text):
            return [_dates(text)]
        if _CLOCK.fullmatch(text):
            return [_clocks(text)]
    spellings = {text, text.strip("#@\"'<> ")}
    if "/" in text or text.startswith("www."):
        link = _LINK.fullmatch(text)
        if link:
            spellings.add(link[1])
    spellings.discard("")
    return [spellings]


def words_of(value: str) -> list[str]:
    """Return the words of a text as they are looked for one by one."""
    return [
        word for word in (w.strip(".,;:!?()[]{}<>\"'") for w in normalise(value).split()) if word
    ]


def is_distinctive(word: str) -> bool:
    """Tell whether a word looks like an identifier: an address, a link, an account, a number."""
    inner = word.strip(_JOINERS)
    looks = any(char.isdigit() or char in "@/\\_" for char in inner) or "." in inner
    return looks and sum(char.isalnum() for char in inner) >= 4  # noqa: PLR2004 - shorter ones are in any text


def is_field(needle: str, fields: str) -> bool:
    """Tell whether `needle` is a whole field of a text from `fields_in`.

    A field is all there is between two ends of lines, commas, colons and the like: what a list, a
    table or ``name: value`` holds, and no part of a sentence.
    """
    start = fields.find(needle)
    while start != -1:
        end = start + len(needle)
        before = fields[max(0, start - _NEAR) : start].rstrip(_BEFORE_FIELD)
        before = _LINK_HEAD.sub("", before).rstrip(_BEFORE_FIELD)
        after = fields[end : end + _NEAR].lstrip(_AFTER_FIELD)
        if _is_end(before[-1:], whole=start < _NEAR) and _is_end(
            after[:1], whole=end + _NEAR > len(fields)
        ):
            return True
        start = fields.find(needle, start + 1)
    return False


def _is_end(char: str, *, whole: bool) -> bool:
    """Tell whether a field ends at `char`, or the text does if there is none and it is `whole`."""
    return char == BETWEEN or char in _BETWEEN_FIELDS if char else whole


def vouches(needle: str, haystack: str) -> bool:
    """Tell whether `haystack` holds `needle` as a whole of its own.

    A neighbour that would make it part of a longer word, address, path or number disqualifies.
    """
    return _found(needle, haystack, strict=True)


def mentions(needle: str, haystack: str) -> bool:
    """Tell whether `haystack` holds `needle` between word boundaries."""
    return _found(needle, haystack, strict=False)


def _found(needle: str, haystack: str, *, strict: bool) -> bool:
    start = haystack.find(needle)
    while start != -1:
        end = start + len(needle)
        before, after = haystack[max(0, start - 2) : start], haystack[end : end + 2]
        if not (
            _joined(before[::-1], needle[0], strict=strict)
            or _joined(after, needle[-1], strict=strict)
        ):
            return True
        start = haystack.find(needle, start + 1)
    return False


def _joined(outward: str, edge: str, *, strict: bool) -> bool:
    """Tell whether `edge` goes on in `outward`, the two characters beside it, nearest first."""
    if outward and _wordlike(outward[0]):
        return _wordlike(edge)
    return strict and len(outward) > 1 and outward[0] in _JOINERS and _wordlike(outward[1])


def _wordlike(char: str) -> bool:
    return char.isalnum() or char == "_"


def _number(value: Any) -> set[str]:
    spellings = {json.dumps(value)}
    if isinstance(value, float) and value.is_integer():
        spellings.add(str(int(value)))
    if isinstance(value, (int, float)):
        spellings |= {f"{value:.1f}", f"{value:.2f}", f"{value:,}", f"{value:,.2f}"}
        # a rounded spelling is another number
        spellings = {text for text in spellings if float(text.replace(",", "")) == value}
    return spellings


def _dates(text: str) -> set[str]:
    year, month, day = (int(part) for part in text.split("-"))
    if not 1 <= month <= len(_MONTHS):
        return {text}
    name = _MONTHS[month - 1]
    ordinal = f"{day}{_suffix(day)}"
    found = {
        text,
        f"{year}/{month:02}/{day:02}",
        f"{day:02}.{month:02}.{year}",
        f"{day}.{month}.{year}",
    }
    for spelled in (name, name[:3]):
        found |= {
            f"{spelled} {day}",
            f"{spelled} {ordinal}",
            f"{day} {spelled}",
            f"{ordinal} {spelled}",
            f"{ordinal} of {spelled}",
        }
    return found


def _clocks(text: str) -> set[str]:
    found = _CLOCK.fullmatch(text)
    if found is None:
        return {text}
    hour, minute = int(found[1]), int(found[2])
    half = "am" if hour < _NOON else "pm"
    twelve = hour % _NOON or _NOON
    spellings = {f"{hour:02}:{minute:02}", f"{hour}:{minute:02}"}
    clocks = [f"{twelve}:{minute:02}"] + ([str(twelve)] if minute == 0 else [])
    for clock in clocks:
        spellings |= {f"{clock}{half}", f"{clock} {half}", f"{clock} {half[0]}.m."}
    if minute == 0 and hour == _NOON:
        spellings.add("noon")
    return spellings


def _suffix(day: int) -> str:
    if day in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
