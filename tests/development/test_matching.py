"""Matchers and paths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_agent_plugin.development.matching import MISSING, Matcher, check_path, follow, same

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def matches(value, checks):
    return Matcher.model_validate(checks).problem(value) is None


@pytest.mark.parametrize(
    ("value", "checks", "holds"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (True, True, True),
        (None, {"equals": None}, True),
        (0, {"equals": None}, False),
        ({"a": [1]}, {"equals": {"a": [1]}}, True),
        ({"a": [1]}, {"equals": {"a": [True]}}, False),
        ("a", {"one_of": ["a", "b"]}, True),
        ("c", {"one_of": ["a", "b"]}, False),
        ("My CARD", {"contains": "card"}, True),
        ("My CARD", {"contains": 5}, False),
        (["card"], {"contains": "card"}, True),
        (["cards"], {"contains": "card"}, False),
        ("card", {"not_contains": "card"}, False),
        ("tel 123", {"matches": r"\d{3}"}, True),
        (123, {"matches": r"\d{3}"}, False),
        (5, {"at_least": 5, "at_most": 5}, True),
        (True, {"at_least": 0}, False),
        ("5", {"at_least": 0}, False),
        ([1, 2], {"count": 2}, True),
        (2, {"count": 2}, False),
        ("x", {"not_equals": "y", "exists": True}, True),
        (MISSING, {"exists": False}, True),
        (MISSING, {"exists": True}, False),
        (MISSING, {"not_equals": 1}, False),
        (MISSING, {"not_contains": "x"}, False),
        ("x", {"exists": False}, False),
    ],
)
def test_each_check_holds_when_it_should(value, checks, holds):
    assert matches(value, checks) is holds


@pytest.mark.parametrize("checks", [{}, {"is": 1}, {"matches": "("}, {"count": -1}, {"one_of": []}])
def test_a_matcher_that_makes_no_sense_is_an_error(checks):
    with pytest.raises(ValidationError):
        Matcher.model_validate(checks)


@settings(deadline=None)
@given(json_values)
def test_every_value_equals_itself_and_nothing_else_says_so(value):
    assert matches(value, {"equals": value})
    assert not matches(value, {"not_equals": value})
    assert same(value, value)


WORLD = {"cards": [{"id": "a", "n": 1}, {"id": "b.c", "n": 2}], "deep": {"x-y": [[5]]}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cards[0].id", "a"),
        ("cards[id=a].n", 1),
        ("cards[id=b.c].n", 2),
        ("cards[n=2].id", "b.c"),
        ("deep.x-y[0][0]", 5),
        ("cards[5]", MISSING),
        ("cards[id=z]", MISSING),
        ("cards.id", MISSING),
        ("deep[0]", MISSING),
        ("none.at.all", MISSING),
        ("deep.x-y[0][0].more", MISSING),
    ],
)
def test_a_path_leads_to_its_value(path, value):
    assert follow(WORLD, path) == value


@pytest.mark.parametrize(
    "path", ["", ".", "a..b", "a.", "[", "a[b", "a[-1]", "a b", "a]", ".a", "a[]"]
)
def test_a_path_that_cannot_be_followed_is_an_error(path):
    with pytest.raises(ValueError, match="path"):
        check_path(path)
