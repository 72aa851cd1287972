"""YAML becomes JSON values with lines, or one error that names file and line."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mlflow_agent_plugin.errors import AgentError, SuiteError
from mlflow_agent_plugin.package import parse_yaml, read_text, read_yaml, validate_document
from mlflow_agent_plugin.package.reading import MAX_TEXT_BYTES


def refused(text):
    """Parse `text`, expecting one line of error; return it."""
    with pytest.raises(SuiteError) as caught:
        parse_yaml(text, name="f.yaml", error=SuiteError)
    assert str(caught.value).startswith("f.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "is empty"),
        ("# only a comment", 1, "is empty"),
        ("a: 1\nb: 2\na: 3", 3, "second time (first on line 1)"),
        ("x:\n  a: 1\n  a: 1", 3, "second time (first on line 2)"),
        ("a: b: c", 1, "not valid YAML"),
        ("a:\n\t- b", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a: *nowhere", 1, "alias *nowhere has no anchor"),
        ("a: !!python/object/apply:os.system [ls]", 1, "is not allowed"),
        ("a: !mine 1", 1, "is not allowed"),
        ("a: !!binary aGk=", 1, "is not allowed"),
        ("a: &x {b: 1}\nc: {<<: *x}", 2, "merge keys"),
        ("1: a", 1, "key '1' is not text"),
        ("true: a", 1, "key 'true' is not text"),
        ("? [a]\n: b", 1, "key must be text"),
        ("a: .inf", 1, "not a number JSON can hold"),
        ("a: .nan", 1, "not a number JSON can hold"),
        ("a: 1e999", 1, "not a number JSON can hold"),
        ("a: " + "9" * 5000, 1, "not a number JSON can hold"),
        ("a: b\nc: \x00", 2, "character YAML does not allow"),
        ('a: "\\ud800"', 1, "not valid YAML"),
        ("[" * 100_000, 1, "nested deeper"),
        ("- " * 100_000, 1, "nested deeper"),
        ("{a: " * 100_000, 1, "nested deeper"),
        ("a: &a [*a]", 1, "nested deeper"),
        (BOMB, 1, "aliases repeat too much"),
    ],
)
def test_bad_yaml_is_one_error_with_its_line(text, line, says):
    message = refused(text)
    assert message.startswith(f"f.yaml:{line}: "), message
    assert says in message


def test_a_text_beyond_the_limit_is_refused():
    assert "longer than 5 MB" in refused("a" * (MAX_TEXT_BYTES + 1))


def test_plain_words_and_dates_stay_text():
    data = parse_yaml("a: no\nb: 2024-01-31\nc: 1:30\nd: 1_000\ne: yes", name="f").data
    assert data == {"a": "no", "b": "2024-01-31", "c": "1:30", "d": "1_000", "e": "yes"}


def test_numbers_follow_the_core_schema_of_yaml_1_2():
    data = parse_yaml("[010, 0x1F, 0o17, +12, .5, 1e3, -7, '1']", name="f").data
    assert data == [10, 31, 15, 12, 0.5, 1000.0, -7, "1"]
    assert [type(value) for value in data][3:6] == [int, float, float]


def test_anchors_and_aliases_work_within_bounds():
    assert parse_yaml("a: &x [1]\nb: *x", name="f").data == {"a": [1], "b": [1]}


def test_every_value_knows_its_line():
    document = parse_yaml("a: 1\nb:\n  - c: 2\n  -\n    d: 3\n", name="f.yaml")
    assert document.where("b", 0, "c") == "f.yaml:3: b[0].c"
    assert document.where("b", 1, "d") == "f.yaml:5: b[1].d"
    assert document.where("b", 1, "missing") == "f.yaml:5: b[1].missing"
    assert document.where() == "f.yaml:1"


def test_a_missing_file_and_one_in_another_encoding_are_errors_of_the_asked_kind(tmp_path):
    with pytest.raises(SuiteError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml", error=SuiteError)
    (tmp_path / "wide.yaml").write_bytes("a: 1\nb: é".encode("latin-1"))
    with pytest.raises(SuiteError, match=r"wide\.yaml:2: is not UTF-8"):
        read_yaml(tmp_path / "wide.yaml", error=SuiteError)


def test_a_byte_order_mark_is_not_content(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_text(tmp_path / "a.txt") == "hello"


def test_the_error_of_a_nested_model_points_into_lists_and_maps():
    class Item(BaseModel, extra="forbid"):
        size: int

    class Box(BaseModel, extra="forbid"):
        items: dict[str, list[Item]] | None = None

    document = parse_yaml("items:\n  red:\n    - size: 1\n    - sise: 2\n", name="f.yaml")
    with pytest.raises(AgentError) as caught:
        validate_document(document, Box)
    assert str(caught.value).startswith("f.yaml:4: items.red[1].")
    assert "items.red[1].sise: unknown field. Did you mean `size`?" in str(caught.value) or (
        "line 4 (items.red[1].sise)" in str(caught.value)
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Cs"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcxyz019-_ ", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1), json_values, min_size=1))
def test_what_json_can_say_is_read_back_unchanged(value):
    assert parse_yaml(json.dumps(value, ensure_ascii=False), name="f").data == value


@given(st.text(max_size=200))
def test_no_text_at_all_escapes_as_another_error(text):
    try:
        data = parse_yaml(text, name="f").data
    except AgentError as error:
        data = str(error).splitlines()
        assert len(data) == 1  # noqa: PT017 - either way is right
    json.dumps(data, allow_nan=False)


def test_the_fast_parser_is_used_where_it_is_installed():
    from mlflow_agent_plugin.package.yaml_values import CoreLoader

    assert issubclass(CoreLoader, yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)
