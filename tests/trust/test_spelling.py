"""Whatever is spelled can be hashed, stored, read back, and spelled the same again."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import Effect, canonical_json
from mlflow_agent_plugin.trust.spelling import plain, spell_field

texts = st.text(st.characters(exclude_categories=[]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
values = st.recursive(
    scalars | st.integers(-(10**400), 10**400),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner) | st.tuples(inner),
    max_leaves=20,
)


@given(value=values)
def test_any_value_can_be_hashed_and_comes_back_spelled_the_same(value):
    spelled = canonical_json(plain(value))
    assert canonical_json(plain(json.loads(spelled))) == spelled


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, True), (2**53 - 1, 2**53 - 1), (2**53, 2.0**53), (10**20, 1e20),
        (2**53 + 1, {"unspellable": "9007199254740993"}),
        (-(2**2000), {"unspellable": "an integer of 2001 bits"}),
        (float("nan"), {"unspellable": "nan"}), (Effect.WRITE, "write"), ("\ud800", "\\ud800"),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "2026-01-01T00:00:00+00:00"),
        ({"b", "a"}, ["a", "b"]), (object(), {"unspellable": "object"}), ({7: 1}, {"7": 1}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_can_spell_is_kept_and_the_rest_says_what_it_was(value, kept):
    assert plain(value) == kept
    assert type(plain(value)) is type(kept)


def test_a_field_is_short_and_clean():
    assert spell_field(None) is None
    assert spell_field("a\x00\ud800") == "a\\x00\\ud800"
    assert len(spell_field("x" * 10**6)) == 1024
