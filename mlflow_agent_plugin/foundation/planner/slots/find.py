"""One finder per kind of slot (the rules stand in the package's docstring)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any, TypeVar

from mlflow_agent_plugin.foundation.planner.playbook import Slot
from mlflow_agent_plugin.foundation.planner.slots.countries import find_countries
from mlflow_agent_plugin.foundation.planner.slots.dates import find_dates
from mlflow_agent_plugin.foundation.planner.slots.money import find_amounts, find_currencies
from mlflow_agent_plugin.foundation.planner.words import find_phrase, fold

T = TypeVar("T")

MAX_CHARS = 10_000
"""Characters of a message that are looked at."""

MAX_TEXT_CHARS = 2_000
"""Longest value of a slot of kind text."""

_ENDING = r"end(?:s|ing)?(?:\s+(?:in|with))?"
_CARD = re.compile(
    rf"(?:\b(?:card|visa|mastercard|digits?|last\s+(?:4|four)|{_ENDING})\b"
    rf"(?:\s+(?:{_ENDING}|number|no|digits?|with|is|are|of|the|card))*"
    r"[\s:#.*xX•-]*|[*•]{2,}[\s-]*|\b[xX]{2,}[\s-]*)(?P<last>\d{4})(?![\d/.,-]*\d)"
)
_CARD_NUMBER = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")
_FOUR_DIGITS = re.compile(r"(?<![\d.,/-])\d{4}(?![\d/-]|[.,]\d)")

_YES = (
    "yes",
    "yeah",
    "yep",
    "yup",
    "sure",
    "ok",
    "okay",
    "confirm",
    "confirmed",
    "i confirm",
    "please do",
    "go ahead",
    "correct",
    "that is right",
    "that's right",
    "do it",
    "proceed",
    "absolutely",
    "definitely",
    "of course",
)
_NO = (
    "no",
    "nope",
    "nah",
    "not",
    "don't",
    "dont",
    "do not",
    "cancel",
    "stop",
    "never mind",
    "nevermind",
    "never",
    "wait",
)


def find_slot(slot: Slot, text: str, *, today: date, asked: bool = False) -> Any:
    """Return the value of `slot` in `text`, or None.

    Args:
        slot: What to look for.
        text: What the user said.
        today: What relative dates count from.
        asked: The user was just asked for this slot.
    """
    text = text[:MAX_CHARS]
    if slot.kind == "choice":
        return _find_choice(slot.choices or {}, text)
    if slot.kind == "regex":
        return _find_pattern(slot.pattern or "", text)
    if slot.kind == "date":
        return _only(find_dates(text, today=today))
    return _FINDERS[slot.kind](text, asked)


def find_slots(
    slots: Mapping[str, Slot], text: str, *, today: date, skip: Collection[str] = ()
) -> dict[str, Any]:
    """Return every slot that stands in `text` without having been asked for."""
    found = {
        name: find_slot(slot, text, today=today) for name, slot in slots.items() if name not in skip
    }
    return {name: value for name, value in found.items() if value is not None}


def _only(found: Collection[T]) -> T | None:
    different = set(found)
    return different.pop() if len(different) == 1 else None


def _find_amount(text: str, asked: bool) -> int | None:  # noqa: FBT001 - one table of finders
    return _only(find_amounts(text, bare=asked))


def _find_currency(text: str, _asked: bool) -> str | None:  # noqa: FBT001
    return _only(find_currencies(text))


def _find_country(text: str, _asked: bool) -> str | None:  # noqa: FBT001
    return _only(find_countries(text))


def _find_card(text: str, asked: bool) -> str | None:  # noqa: FBT001
    found = [re.sub(r"\D", "", match[0])[-4:] for match in _CARD_NUMBER.finditer(text)]
    rest = _CARD_NUMBER.sub(" ", text)
    found += [match["last"] for match in _CARD.finditer(rest.lower())]
    if not found and asked:
        found = _FOUR_DIGITS.findall(rest)
    return _only(found)


def _find_text(text: str, asked: bool) -> str | None:  # noqa: FBT001
    return (text.strip()[:MAX_TEXT_CHARS] or None) if asked else None


def _find_confirmation(text: str, asked: bool) -> bool | None:  # noqa: FBT001
    if not asked:
        return None
    words = fold(text)
    yes = any(find_phrase(words, phrase) for phrase in _YES)
    no = any(find_phrase(words, phrase) for phrase in _NO)
    return yes if yes is not no else None


def _find_choice(choices: Mapping[str, list[str]], text: str) -> str | None:
    words = fold(text)
    named: list[tuple[tuple[int, int], str]] = []
    for value, phrases in choices.items():
        for phrase in (value.replace("_", " "), *phrases):
            named += [(span, value) for span in find_phrase(words, phrase)]
    # "virtual card" is not also "card": what lies inside a longer phrase does not count
    outer = {
        value
        for (start, end), value in named
        if not any(
            first <= start and end <= last and last - first > end - start
            for (first, last), _ in named
        )
    }
    return _only(outer)


def _find_pattern(pattern: str, text: str) -> str | None:
    found = set()
    for match in re.finditer(pattern, text, re.IGNORECASE):
        value = match[1] if match.re.groups else match[0]
        if value:
            found.add(value)
    return _only(found)


_FINDERS: dict[str, Callable[[str, bool], Any]] = {
    "amount": _find_amount,
    "currency": _find_currency,
    "country": _find_country,
    "card_last4": _find_card,
    "text": _find_text,
    "confirm": _find_confirmation,
}
