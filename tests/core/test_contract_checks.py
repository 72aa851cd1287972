"""What fits a contract, whatever kind of value a model or a tool hands over."""

from __future__ import annotations

import enum
from decimal import Decimal

import pytest

from mlflow_agent_plugin.core.gateway.contracts import _Schema

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "maxLength": 5},
        "count": {"type": "integer"},
        "inner": {"type": "object"},
    },
}


class Text(str):
    """As a chat library's message text is: a str of its own kind."""

    __slots__ = ()


class Count(enum.IntEnum):
    TWO = 2


@pytest.mark.parametrize(
    "value",
    [
        {"text": "plain"},
        {"text": Text("plain")},
        {"text": "plain", "count": Count.TWO},
        {"text": "plain", "inner": {Text("key"): [Text("a"), {"b": Text("c")}]}},
    ],
)
def test_a_value_fits_whatever_class_its_texts_and_numbers_have(value):
    assert _Schema(SCHEMA).problem(value) is None


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"text": Text("too long")}, "text"),
        ({"text": "x", "count": "2"}, "count"),
        ({"text": Text("x"), "more": 1}, "more"),
        ({"text": "x", "inner": {"n": float("nan")}}, ""),
        ({"text": "x", "inner": {"n": Decimal(1)}}, ""),
        ({"text": "x", "inner": {"n": object()}}, ""),
        ({}, "text"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place(value, word):
    problem = _Schema(SCHEMA).problem(value)
    if word:
        assert problem is not None
        assert word in problem


def test_a_value_nested_thousands_deep_is_no_crash():
    deep = current = {"text": "x", "inner": {}}
    for _ in range(5000):
        current["inner"] = {"inner": {}}
        current = current["inner"]
    _Schema(SCHEMA).problem(deep)
