"""Where the value of an argument came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.core.provenance import derive_provenance
from mlflow_agent_plugin.entities import Provenance

USER, TRUSTED, UNTRUSTED = Provenance.USER, Provenance.TRUSTED, Provenance.UNTRUSTED


@pytest.mark.parametrize(
    ("value", "seen", "expected"),
    [
        ("Bob", [(USER, "pay bob now")], "user"),
        ("Bob", [(UNTRUSTED, "pay Bob"), (USER, "pay the bill")], "untrusted"),
        ("Bob", [(UNTRUSTED, "pay Bob"), (USER, "pay Bob")], "user"),
        ("Bob", [(TRUSTED, '{"owner": "Bob"}')], "trusted"),
        ("Bob", [], "model"),
        (50, [(USER, "send 1500")], "model"),
        (50, [(USER, "send 50, please")], "user"),
        (50.0, [(USER, "send $50.00")], "user"),
        (1500, [(USER, "send 1,500")], "user"),
        ("ＢＯＢ", [(USER, "bob")], "user"),
        ({"to": "Bob", "via": "evil"}, [(USER, "Bob"), (UNTRUSTED, "evil")], "untrusted"),
        (["Bob", "Al"], [(USER, "Bob and Al")], "user"),
        (True, [(USER, "true")], "model"),
        (None, [(USER, "null")], "model"),
        ("", [(USER, "")], "model"),
    ],
)
def test_a_value_is_traced_to_where_it_stands(value, seen, expected):
    assert derive_provenance({"x": value}, seen) == {"x": expected}


@given(st.text(min_size=1), st.text())
def test_a_value_seen_only_in_untrusted_text_is_never_better_than_untrusted(value, around):
    found = derive_provenance({"x": value}, [(UNTRUSTED, f"{around} {value} {around}")])["x"]
    assert found in ("untrusted", "model")
