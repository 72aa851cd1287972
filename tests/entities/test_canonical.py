"""One spelling for JSON that is hashed or signed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import (
    canonical_json,
    read_canonical,
    sha256_digest,
    sha256_of_json,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


def test_the_example_of_the_standard_gives_its_bytes():
    # RFC 8785, section 3.2.2 and 3.2.3
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical_json(value) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9)))
def test_the_order_of_keys_does_not_matter(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.text() | st.just(1.0),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("aé\x7f\ue000\U00010000\ud800"), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(PLAIN)
@example({"\ue000": 1, "\U00010000": 2})
@example('\x00\x1f\x7f\u2028"\\\b\f\n\r\t')
def test_the_short_way_gives_the_bytes_of_the_standards_own(value):
    import rfc8785

    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(ValueError, match="cannot be hashed"):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@settings(deadline=None)
@given(values)
@example(2.0**53)
@example([1e20, -4.8e16, 2.0**70, 9007199254740991, -9007199254740991, 0.0, 1e308])
@example({"\x00\x7f\u2028": "\x00\x7f\u2028\U0010ffff"})
def test_what_is_spelled_is_read_as_what_is_spelled_the_same(value):
    text = canonical_json(value)
    assert read_canonical(text, exact=True) == value
    assert canonical_json(read_canonical(text, exact=True)) == text
    assert read_canonical(text) == json.loads(text)


def test_a_large_float_is_read_as_a_whole_number_unless_it_has_to_be_exact():
    text = canonical_json([1e17, 1e20, 2.5, 7])
    assert list(map(type, read_canonical(text))) == [int, int, float, int]
    assert list(map(type, read_canonical(text, exact=True))) == [float, float, float, int]


@pytest.mark.parametrize("depth", [200, 300, 900])
def test_values_too_deep_for_the_quick_library_are_spelled_and_read_all_the_same(depth):
    value: object = "x"
    for _ in range(depth):
        value = {"a": [value]} if depth < 300 else [value]
    text = canonical_json(value)
    assert read_canonical(text) == value


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"[1,]", b"\xff"])
def test_what_is_no_json_is_not_read(text):
    with pytest.raises(ValueError, match=r"column|utf-8"):
        read_canonical(text)


def test_a_value_that_holds_itself_is_refused():
    value: dict = {"a": []}
    value["a"].append(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        canonical_json(value)


@settings(deadline=None)
@given(values)
def test_what_is_spelled_reads_back_as_the_same_value(value):
    # Every number is a double: 4.8e16 is spelled with digits that only a double reads back.
    assert json.loads(canonical_json(value), parse_int=float) == value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**53, -(2**53), {1, 2}, b"x", object(), "\ud800", {1: 2}],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_spell_exactly_is_refused(value):
    with pytest.raises(ValueError, match="cannot be hashed"):
        canonical_json({"deep": [value]})
    with pytest.raises(ValueError, match="cannot be hashed"):
        sha256_of_json(value)


def test_a_value_nested_too_deeply_is_refused():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        canonical_json(value)


def test_a_digest_is_sha256_and_hex():
    assert sha256_digest(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert sha256_of_json({}) == sha256_digest(b"{}")
