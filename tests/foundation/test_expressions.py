"""Placeholders and conditions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.foundation.planner.expressions import (
    Condition,
    MissingValueError,
    fill,
    template_references,
)

VALUES = {
    "slots": {"amount": 4550, "sure": False, "note": None, "name": "Ann"},
    "results": {"cards": {"items": [{"id": "c1"}, {"id": "c2"}], "count": 2}},
    "session": {"turn": 3},
}


def test_a_lone_placeholder_keeps_the_json_type_of_its_value():
    assert fill("{slots.amount}", VALUES) == 4550
    assert fill("{slots.sure}", VALUES) is False
    assert fill("{results.cards.items}", VALUES) == [{"id": "c1"}, {"id": "c2"}]


def test_a_placeholder_in_longer_text_is_spelled_out():
    assert fill("{slots.name}: {slots.amount} {slots.sure}", VALUES) == "Ann: 4550 false"


def test_a_path_goes_through_lists_by_position():
    assert fill("{results.cards.items.1.id}", VALUES) == "c2"


@pytest.mark.parametrize("path", ["slots.note", "slots.other", "results.cards.items.2.id"])
def test_a_missing_or_null_value_is_an_error_that_names_its_path(path):
    with pytest.raises(MissingValueError, match=re.escape(path)):
        fill({"a": [f"{{{path}}}"]}, VALUES)


def test_an_optional_placeholder_without_a_value_leaves_its_argument_out():
    assert fill({"a": "{slots.note?}", "b": ["{slots.note?}", 1]}, VALUES) == {"b": [1]}
    assert fill("note: {slots.note?}.", VALUES) == "note: ."


def test_double_braces_are_literal():
    assert fill("{{slots.amount}}", VALUES) == "{slots.amount}"
    assert fill("{{", VALUES) == "{"


@pytest.mark.parametrize(
    "text", ["{", "}", "{slots}", "{slots.}", "{env.HOME}", "{slots.a!r}", "{slots.a[0]}", "{0}"]
)
def test_a_brace_that_is_no_placeholder_is_an_error(text):
    with pytest.raises(ValueError, match=r"no placeholder"):
        template_references(text)


def test_values_never_become_placeholders_themselves():
    values = {**VALUES, "slots": {"evil": "{session.turn} {slots.amount}"}}
    assert fill("{slots.evil}!", values) == "{session.turn} {slots.amount}!"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slots.amount", True),
        ("slots.sure", False),
        ("slots.other", False),
        ("not slots.other", True),
        ("slots.amount == 4550", True),
        ("slots.amount == '4550'", False),
        ("slots.sure == false", True),
        ("slots.sure != true", True),
        ("slots.other == null", True),
        ("slots.other != x", True),
        ("slots.name == Ann", True),
        ("not slots.name == Ann", False),
        ("results.cards.count > 1", True),
        ("results.cards.count >= 3", False),
        ("session.turn <= 3", True),
        ("slots.name > 3", False),
        ("slots.other < 3", False),
    ],
)
def test_a_condition_holds_or_not(text, expected):
    assert Condition.parse(text).holds(VALUES) is expected


def test_true_is_not_one():
    assert not Condition.parse("slots.x == 1").holds({"slots": {"x": True}})
    assert not Condition.parse("slots.x == true").holds({"slots": {"x": 1}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "true",
        "slots",
        "slots.a ==",
        "slots.a == [1]",
        "slots.a == {b: 1}",
        "slots.a and slots.b",
        "__import__('os')",
        "slots.a == !!python/object/apply:os.system [x]",
    ],
)
def test_anything_else_is_no_condition(text):
    with pytest.raises(ValueError, match=r"condition|value|list"):
        Condition.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_template_or_a_value_error(text):
    try:
        template_references(text)
    except ValueError:
        return
    assert "{" not in text.replace("{{", "") or "}" in text


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_a_value_error(text):
    try:
        condition = Condition.parse(text)
    except ValueError:
        return
    assert condition.holds({}) in (True, False)
