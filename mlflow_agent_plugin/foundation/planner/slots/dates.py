"""Dates in text, as people at a bank say them: mostly about the past, day before month."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta

# fmt: off
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_COUNTS = (
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)
# fmt: on
_NUMBERS = {word: number for number, word in enumerate(_COUNTS)} | {"a": 1, "an": 1}
_MONTH = r"(?P<month>" + "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS) + r"|sept)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>(?:19|20)\d\d))?"

_ISO = re.compile(r"\b(?P<year>(?:19|20)\d\d)-(?P<month>\d\d)-(?P<day>\d\d)\b")
_NUMERIC = re.compile(
    r"(?<![\d./-])(?P<day>\d{1,2})(?P<mark>[./])(?P<month>\d{1,2})"
    r"(?:(?P=mark)(?P<year>(?:19|20)?\d\d))?(?![./-]?\d)"
)
_DAY_MONTH = re.compile(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH}\b{_YEAR}", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b{_YEAR}", re.IGNORECASE)
_AGO = re.compile(
    rf"\b(?P<count>\d{{1,3}}|{'|'.join(_NUMBERS)})\s+(?P<unit>day|week)s?\s+ago\b", re.IGNORECASE
)
_WEEKDAY = re.compile(
    rf"\b(?:(?P<which>last|this|next)\s+)?(?P<name>{'|'.join(_DAYS)})\b", re.IGNORECASE
)
_RELATIVE = {"day before yesterday": -2, "yesterday": -1, "today": 0, "tomorrow": 1}
_RELATIVE_PATTERN = re.compile(rf"\b(?:{'|'.join(_RELATIVE)})\b", re.IGNORECASE)


def find_dates(text: str, *, today: date) -> list[str]:
    """Return the dates `text` names as ``YYYY-MM-DD``.

    A date without a year is the last one that is not in the future; "Friday" and "last Friday" are
    the last Friday before today, "next Friday" the first after it. Impossible dates are left out.
    """
    return [found.isoformat() for found in _find(text, today)]


def _find(text: str, today: date) -> Iterator[date]:
    rest = text
    for pattern in (_ISO, _NUMERIC, _DAY_MONTH, _MONTH_DAY):
        for match in pattern.finditer(rest):
            found = _calendar_date(match, today)
            if found is not None:
                yield found
        rest = pattern.sub(" ", rest)
    for match in _AGO.finditer(rest):
        count = match["count"].lower()
        number = int(count) if count.isdigit() else _NUMBERS[count]
        yield today - timedelta(days=number * (7 if match["unit"].lower() == "week" else 1))
    for match in _RELATIVE_PATTERN.finditer(rest):
        yield today + timedelta(days=_RELATIVE[match[0].lower()])
    for match in _WEEKDAY.finditer(rest):
        wanted = _DAYS.index(match["name"].lower())
        if (match["which"] or "").lower() == "next":
            yield today + timedelta(days=(wanted - today.weekday() - 1) % 7 + 1)
        else:
            yield today - timedelta(days=(today.weekday() - wanted - 1) % 7 + 1)


def _calendar_date(match: re.Match[str], today: date) -> date | None:
    month = match["month"].lower()
    number = int(month) if month.isdigit() else [name[:3] for name in _MONTHS].index(month[:3]) + 1
    year, day = match["year"], int(match["day"])
    if year is not None:
        return _date(int(year) if len(year) == 4 else 2000 + int(year), number, day)
    # 29 February needs up to eight years back
    candidates = (_date(today.year - back, number, day) for back in range(9))
    return next((found for found in candidates if found is not None and found <= today), None)


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
