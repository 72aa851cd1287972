"""What policies see of each kind of argument."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.trust.policy.schema import FactError, cedar_schema, tool_facts

STRING = {"type": "string"}


def facts(shop, properties, **more):
    return tool_facts(ToolContract.model_validate(shop.contract("t", properties, **more)))


@pytest.mark.parametrize(
    ("schema", "cedar"),
    [
        ({"type": "string"}, {"type": "String", "required": True}),
        ({"type": "integer"}, {"type": "Long", "required": True}),
        ({"type": "boolean"}, {"type": "Boolean", "required": True}),
        ({"type": "number"}, {"type": "Extension", "name": "decimal", "required": True}),
        (
            {"type": ["integer", "number"]},
            {"type": "Extension", "name": "decimal", "required": True},
        ),
        ({"type": ["string", "null"]}, {"type": "String", "required": False}),
        ({"anyOf": [STRING, {"type": "null"}]}, {"type": "String", "required": False}),
        ({"oneOf": [STRING]}, {"type": "String", "required": True}),
        ({"enum": ["a", "b"]}, {"type": "String", "required": True}),
        ({"enum": ["a", None]}, {"type": "String", "required": False}),
        ({"const": 3}, {"type": "Long", "required": True}),
        ({"$ref": "#/$defs/name"}, {"type": "String", "required": True}),
        (
            {"type": "array", "items": STRING},
            {"type": "Set", "element": {"type": "String"}, "required": True},
        ),
    ],
)
def test_a_json_schema_becomes_its_cedar_type(shop, schema, cedar):
    found = facts(shop, {"x": schema}, **{"$defs": {"name": STRING}})
    assert found.input.cedar["attributes"]["x"] == cedar
    assert found.unseen == ()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "null"},
        {"type": "object"},
        {"type": "array"},
        {"type": "array", "items": {"type": ["string", "null"]}},
        {"type": "array", "prefixItems": [STRING], "items": STRING},
        {"type": ["string", "integer"]},
        {"anyOf": [STRING, {"type": "integer"}]},
        {"enum": ["a", 1]},
        {"enum": [None]},
        {"$ref": "#/$defs/loop"},
        {"allOf": [STRING, {"minLength": 3}]},
    ],
)
def test_what_has_no_cedar_type_is_unseen_but_its_origin_is_a_fact(shop, schema):
    loop = {"loop": {"type": "object", "properties": {"next": {"$ref": "#/$defs/loop"}}}}
    found = facts(shop, {"x": schema}, **{"$defs": loop})
    if schema == {"$ref": "#/$defs/loop"}:
        assert found.unseen == ("x.next",)
    else:
        assert found.unseen == ("x",)
        assert found.input.convert({"x": "anything"}) == {}
    assert found.provenance({"x": "anything"}, {"x": "model"}) == {"x": "model"}


def test_arguments_a_contract_leaves_open_are_unseen_and_others_are_refused(shop):
    opened = facts(shop, {"x": STRING}, additionalProperties=True)
    assert opened.unseen == ("*",)
    assert opened.input.convert({"x": "a", "__entity": {}}) == {"x": "a"}
    with pytest.raises(FactError, match="not in the contract"):
        facts(shop, {"x": STRING}).input.convert({"x": "a", "y": "b"})


def test_the_schema_of_no_tools_and_no_roles_loads(shop):
    import json

    import cedarpy

    cedarpy.Schema.from_json_str(json.dumps(cedar_schema("a", {}, {})))


def test_every_bundle_name_is_a_fine_name_in_the_schema(shop):
    import json

    import cedarpy

    names = ["in", "if", "my-param", "", "ü", "a.b", "has", 'q"q', "context"]
    found = facts(shop, dict.fromkeys(names, STRING))
    cedarpy.Schema.from_json_str(json.dumps(cedar_schema("a-b", {"t": found}, {"r.s-1": ""})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def three_kinds(shop):
    items = {"type": "array", "items": {"type": "integer"}}
    return facts(shop, {"s": STRING, "n": {"type": "number"}, "a": items}, required=[])


@given(value=JSON)
def test_any_json_value_is_converted_or_refused(three_kinds, value):
    for name in "sna":
        with contextlib.suppress(FactError):
            three_kinds.input.convert({name: value})


@pytest.mark.parametrize("name", ["n", "a"])
def test_a_refusal_does_not_repeat_the_value(three_kinds, name):
    with pytest.raises(FactError) as caught:
        three_kinds.input.convert({name: "4111 1111 1111 1111"})
    assert "4111" not in str(caught.value)
