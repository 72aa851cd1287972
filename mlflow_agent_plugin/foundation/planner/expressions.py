"""Placeholders and conditions of a playbook: a language too small to go wrong.

Rules:
- ``{slots.x}``, ``{results.step.path}`` and ``{session.x}`` are the only placeholders; a ``?``
  before the closing brace makes one optional; ``{{`` and ``}}`` are literal braces.
- A string that is one placeholder and nothing else takes the value with its JSON type. Inside
  longer text the value is spelled out (strings as they are, everything else as JSON).
- A missing value is an error, unless the placeholder is optional: then the argument is left out, or
  the text around it stays without it.
- A condition is ``PATH``, ``not PATH`` or ``PATH OP VALUE`` with OP one of ``== != < <= > >=`` and
  VALUE a YAML scalar. A missing path is false, unequal to every value but null, and neither smaller
  nor larger than anything.
- Nothing is ever evaluated as code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.package.reading import parse_yaml

ROOTS = ("slots", "results", "session")
"""What a path may start with."""

SESSION_FACTS = ("turn", "text", "request", "intent", "confidence", "reason")
"""Names below ``session``: turn (int, from 1), text (the user's last message), request (the message
that started the task), intent, confidence, and reason (why it is handed over; else null)."""

_PATH = r"(?:slots|results|session)(?:\.[A-Za-z0-9_-]+)+"
_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<path>" + _PATH + r")(?P<optional>\?)?\}|[{}]")
_CONDITION = re.compile(
    r"^\s*(?:(?P<no>not)\s+)?(?P<path>" + _PATH + r")"
    r"(?:\s*(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>.+?))?\s*$"
)


class _Missing:
    """The one value that means "there is none"."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Reference:
    """One path a playbook mentions.

    Attributes:
        parts: The path, e.g. ``("slots", "amount")``.
        optional: True if the value may be missing.
    """

    parts: tuple[str, ...]
    optional: bool = False

    @property
    def text(self) -> str:
        """The path as written."""
        return ".".join(self.parts)

    def lookup(self, values: Mapping[str, Any]) -> Any:
        """Return the value at this path in `values`, or `MISSING`; null counts as missing."""
        found: Any = values
        for part in self.parts:
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return MISSING
        return MISSING if found is None else found


class MissingValueError(LookupError):
    """A placeholder that is not optional has no value; the text names its path."""


def template_references(text: str) -> list[Reference]:
    """Return the placeholders of `text` in order.

    Raises:
        ValueError: A brace that belongs to no placeholder.
    """
    found = []
    for match in _TOKEN.finditer(text):
        if match["path"]:
            found.append(Reference(tuple(match["path"].split(".")), bool(match["optional"])))
        elif match[0] in "{}":
            raise ValueError(
                f"{text!r} has a brace that is no placeholder; write {{slots.x}}, "
                "{results.step.path} or {session.x}, and {{ for a literal brace"
            )
    return found


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return `value` with every placeholder replaced, recursively through lists and mappings.

    Entries whose value is one optional placeholder without a value are left out.

    Raises:
        MissingValueError: A placeholder that is not optional has no value.
    """
    if isinstance(value, str):
        return _fill_text(value, values)
    if isinstance(value, Mapping):
        filled = {name: fill(item, values) for name, item in value.items()}
        return {name: item for name, item in filled.items() if item is not MISSING}
    if isinstance(value, list):
        return [item for item in (fill(item, values) for item in value) if item is not MISSING]
    return value


def _fill_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = _TOKEN.fullmatch(text)
    if whole is not None and whole["path"]:
        return _value_of(template_references(text)[0], values)

    def spell(match: re.Match[str]) -> str:
        if not match["path"]:
            return match[0][0]
        reference = Reference(tuple(match["path"].split(".")), bool(match["optional"]))
        found = _value_of(reference, values)
        if found is MISSING:
            return ""
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return _TOKEN.sub(spell, text)


def _value_of(reference: Reference, values: Mapping[str, Any]) -> Any:
    found = reference.lookup(values)
    if found is MISSING and not reference.optional:
        raise MissingValueError(reference.text)
    return found


@dataclass(frozen=True)
class Condition:
    """A parsed ``when``.

    Attributes:
        reference: The path it asks about.
        operator: One of ``== != < <= > >=``, or "" for "is there and true".
        value: What is compared with; None without an operator.
        negated: Starts with ``not``.
    """

    reference: Reference
    operator: str = ""
    value: Any = None
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read one condition.

        Raises:
            ValueError: `text` is not of one of the three forms.
        """
        match = _CONDITION.match(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not a condition; write PATH, not PATH, or PATH == VALUE with a PATH "
                "such as slots.x, results.step.field or session.turn"
            )
        reference = Reference(tuple(match["path"].split(".")), optional=True)
        if match["op"] is None:
            return cls(reference, negated=bool(match["no"]))
        try:
            value = parse_yaml(f"value: {match['value']}", name=text, error=PlannerError).data
        except PlannerError as error:
            raise ValueError(f"{match['value']!r} in {text!r} is not a value") from error
        if len(value) != 1 or isinstance(value["value"], list | dict):
            raise ValueError(f"{text!r} compares with a list or mapping; compare with one value")
        return cls(reference, match["op"], value["value"], negated=bool(match["no"]))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Tell whether the condition is true of `values`."""
        return self._plainly_holds(values) is not self.negated

    def _plainly_holds(self, values: Mapping[str, Any]) -> bool:
        found = self.reference.lookup(values)
        if self.operator == "":
            return found is not MISSING and bool(found)
        if self.operator in ("==", "!="):
            left = None if found is MISSING else found
            # bool is an int in Python; `true == 1` must not hold in a playbook
            same = isinstance(left, bool) is isinstance(self.value, bool) and left == self.value
            return same is (self.operator == "==")
        return _compare(found, self.operator, self.value)


def _compare(left: Any, operator: str, right: Any) -> bool:
    both = (left, right)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in both)
    if not numbers and not all(isinstance(v, str) for v in both):
        return False
    if operator == "<":
        return bool(left < right)
    if operator == "<=":
        return bool(left <= right)
    if operator == ">":
        return bool(left > right)
    return bool(left >= right)
