"""An encoder that is made once spells what `json.dumps` does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import json_encoder

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers() | st.booleans() | st.none(), inner, max_size=1)
    ),
    max_leaves=10,
)
SETTINGS = [
    {},
    {"ensure_ascii": False},
    {"allow_nan": False, "sort_keys": True, "separators": (",", ":")},
]


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@settings(deadline=None)
@given(value=VALUES)
def test_it_spells_as_the_standard_library(chosen, value):
    spell = json_encoder(**chosen)
    try:
        expected = json.dumps(value, **chosen)
    except ValueError:
        with pytest.raises(ValueError, match="float"):
            spell(value)
    else:
        assert spell(value) == expected


def test_without_its_part_in_c_it_spells_the_same(monkeypatch):
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    spell = json_encoder(sort_keys=True, separators=(",", ":"))
    assert spell({"b": [1, None], "a": "\u00e9"}) == '{"a":"\\u00e9","b":[1,null]}'


def test_a_value_that_holds_itself_ends_in_an_error():
    value: list = []
    value.append(value)
    with pytest.raises(RecursionError):
        json_encoder()(value)


def test_what_json_does_not_know_is_refused():
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_encoder()({1, 2})
