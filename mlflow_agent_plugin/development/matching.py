"""Matchers and paths: how a scenario says what a value should look like.

Rules:
- A matcher is either a plain value, which means "equals this", or a mapping of checks that all have
  to hold: ``{contains: "card", not_equals: ""}``. To demand an object, write ``{equals: {…}}``.
- Types count: ``1`` is not ``"1"`` and ``true`` is not ``1``; ``1`` and ``1.0`` are one number.
- ``contains`` finds text in text (whatever its case) and items in lists; ``matches`` is a regular
  expression that has to be found somewhere in the text.
- A path leads into a value: ``cards[0].status``, ``cards[card_id=card_1].status``. A path that
  leads nowhere has no value; every check but ``exists: false`` fails on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from mlflow_agent_plugin.package import StrictModel

_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\[([A-Za-z_][A-Za-z0-9_-]*)=([^\]]*)\]")


class _Missing:
    """The value of a path that leads nowhere."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


class Matcher(StrictModel):
    """Checks on one value; all that are given have to hold.

    Attributes:
        equals: The value is this one.
        not_equals: The value is another one.
        one_of: The value is one of these.
        contains: Text in the text, or an item of the list.
        not_contains: The opposite.
        matches: Regular expression found in the text.
        at_least: The number is this or more.
        at_most: The number is this or less.
        count: The list, object or text has this many items.
        exists: There is a value (false: there is none).
    """

    equals: Any = None
    not_equals: Any = None
    one_of: list[Any] | None = Field(default=None, min_length=1)
    contains: Any = None
    not_contains: Any = None
    matches: str | None = Field(default=None, min_length=1, max_length=1000)
    at_least: float | None = None
    at_most: float | None = None
    count: int | None = Field(default=None, ge=0)
    exists: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_value_means_equals(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, Matcher)) else {"equals": value}

    @field_validator("matches")
    @classmethod
    def _is_regular_expression(cls, pattern: str | None) -> str | None:
        return None if pattern is None else check_pattern(pattern)

    @model_validator(mode="after")
    def _has_a_check(self) -> Matcher:
        if not self.given():
            raise ValueError(f"needs one of the checks {', '.join(CHECKS)}")
        return self

    def given(self) -> list[str]:
        """Return the names of the checks that were given, in a fixed order."""
        return [name for name in CHECKS if name in self.model_fields_set]

    def problem(self, value: Any) -> str | None:
        """Return why `value` does not match, or None if it does."""
        for name in self.given():
            wanted = getattr(self, name)
            if name == "exists":
                if (value is not MISSING) is not wanted:
                    return f"there is {'no' if wanted else 'a'} value"
            elif value is MISSING:
                return "there is no value"
            elif not _HOLDS[name](value, wanted):
                return f"{show(value)} where {name} {show(wanted)} was wanted"
        return None


CHECKS = tuple(Matcher.model_fields)
"""Names of all checks."""


def same(left: Any, right: Any) -> bool:
    """Compare two JSON values; unlike Python, ``True`` is not ``1``."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if _is_list(left) and _is_list(right):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def show(value: Any) -> str:
    """Spell `value` for a message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it is a regular expression.

    Raises:
        ValueError: It is not.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return pattern


def check_path(path: str) -> str:
    """Return `path` if it can be followed.

    Raises:
        ValueError: It is malformed.
    """
    _parts(path)
    return path


def follow(value: Any, path: str) -> Any:
    """Return what stands at `path` in `value`, or `MISSING`.

    >>> follow({"cards": [{"id": "a", "status": "frozen"}]}, "cards[id=a].status")
    'frozen'
    """
    for key, index, field, wanted in _parts(path):
        if key is not None:
            value = value.get(key, MISSING) if isinstance(value, Mapping) else MISSING
        elif not _is_list(value):
            return MISSING
        elif index is not None:
            value = value[index] if index < len(value) else MISSING
        else:
            value = next(
                (
                    item
                    for item in value
                    if isinstance(item, Mapping) and str(item.get(field, MISSING)) == wanted
                ),
                MISSING,
            )
        if value is MISSING:
            return MISSING
    return value


def _parts(path: str) -> list[tuple[str | None, int | None, str | None, str | None]]:
    found: list[tuple[str | None, int | None, str | None, str | None]] = []
    at = 0
    while at < len(path):
        if path[at] == "." and found:
            at += 1
        match = _PATH.match(path, at)
        if match is None or (match[1] is not None and found and path[at - 1] != "."):
            raise ValueError(f"is not a path like cards[0].status (see character {at + 1})")
        found.append((match[1], None if match[2] is None else int(match[2]), match[3], match[4]))
        at = match.end()
    if not found:
        raise ValueError("is an empty path")
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted.casefold() in value.casefold()
    return _is_list(value) and any(same(item, wanted) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_HOLDS: dict[str, Any] = {
    "equals": same,
    "not_equals": lambda value, wanted: not same(value, wanted),
    "one_of": lambda value, wanted: any(same(value, item) for item in wanted),
    "contains": _contains,
    "not_contains": lambda value, wanted: not _contains(value, wanted),
    "matches": lambda value, wanted: isinstance(value, str) and bool(re.search(wanted, value)),
    "at_least": lambda value, wanted: _is_number(value) and value >= wanted,
    "at_most": lambda value, wanted: _is_number(value) and value <= wanted,
    "count": lambda value, wanted: hasattr(value, "__len__") and len(value) == wanted,
}
