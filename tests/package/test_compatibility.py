"""A contract keeps its promises, or the comparison says which one it breaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlflow_agent_plugin.package import ContractStatus, ToolContract, compare_contracts
from mlflow_agent_plugin.package.subschema import Side, broken_promises


def contract(**changes):
    """One contract with some fields changed."""
    return ToolContract.model_validate(
        {
            "apiVersion": "mlflow-agents/v1",
            "name": "refund",
            "version": "1.0.0",
            "description": "Pay back.",
            "input": {"type": "object"},
            "output": {"type": "object"},
            "effect": "write",
            **changes,
        }
    )


def obj(properties, *, required=(), **more):
    """One object schema."""
    return {"type": "object", "properties": properties, "required": list(required), **more}


TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
NUMBER = {"type": "number"}


def promise(old, new, side):
    return broken_promises(old, new, side=side)


def test_the_same_contract_is_the_same():
    change = compare_contracts(contract(), contract())
    assert change.status is ContractStatus.SAME
    assert not change.needs_major


INPUT_BREAKS = [
    (obj({}), obj({"a": TEXT}, required=["a"]), "argument `a` is new and required"),
    (obj({"a": TEXT}), obj({"a": TEXT}, required=["a"]), "argument `a` became required"),
    (obj({"a": TEXT}), obj({}), "argument `a` was removed"),
    (
        obj({"a": NUMBER}),
        obj({"a": WHOLE}),
        "the type of argument `a` narrowed from number to integer",
    ),
    (obj({"a": {}}), obj({"a": TEXT}), "narrowed from anything to string"),
    (obj({"a": {"type": ["string", "null"]}}), obj({"a": TEXT}), "narrowed"),
    (obj({"a": {"enum": ["x", "y"]}}), obj({"a": {"enum": ["x"]}}), "no longer accepts 'y'"),
    (obj({"a": TEXT}), obj({"a": {**TEXT, "enum": ["x"]}}), "listed values only"),
    (obj({"a": {"const": 1}}), obj({"a": {"const": 2}}), "no longer accepts 1"),
    (obj({"a": WHOLE}), obj({"a": {**WHOLE, "minimum": 1}}), "from no limit to 1"),
    (
        obj({"a": {**WHOLE, "minimum": 0}}),
        obj({"a": {**WHOLE, "exclusiveMinimum": 0}}),
        "0 (exclusive)",
    ),
    (obj({"a": {**WHOLE, "maximum": -1}}), obj({"a": {**WHOLE, "maximum": -2}}), "from -1 to -2"),
    (obj({"a": TEXT}), obj({"a": {**TEXT, "maxLength": 5}}), "maxLength"),
    (obj({"a": {**TEXT, "minLength": 1}}), obj({"a": {**TEXT, "minLength": 2}}), "minLength"),
    (obj({"a": TEXT}), obj({"a": {**TEXT, "pattern": "^x"}}), "`pattern` of argument `a`"),
    (obj({}), obj({}, additionalProperties=False), "no longer accepts undeclared fields"),
    (obj({}), obj({}, additionalProperties=TEXT), "argument `*`"),
    (obj({"a": obj({"b": TEXT})}), obj({"a": obj({"b": WHOLE})}), "argument `a.b`"),
    (obj({"a": {"type": "array"}}), obj({"a": {"type": "array", "items": TEXT}}), "argument `a[]`"),
    (
        obj({"a": {"type": "array", "items": obj({"b": TEXT})}}),
        obj({"a": {"type": "array", "items": obj({"b": TEXT}, required=["b"])}}),
        "argument `a[].b` became required",
    ),
    (
        obj({"a": {"type": "array"}}),
        obj({"a": {"type": "array", "uniqueItems": True}}),
        "uniqueItems",
    ),
    (obj({"a": {"anyOf": [TEXT, WHOLE]}}), obj({"a": TEXT}), "no longer accepts integer"),
    (
        obj({"a": {"anyOf": [TEXT, {"type": "null"}]}}),
        obj({"a": {"anyOf": [TEXT, WHOLE]}}),
        "no longer accepts null",
    ),
    (obj({"a": WHOLE}), obj({"a": {"oneOf": [WHOLE, NUMBER]}}), "`oneOf`"),
    (obj({"a": {}}), obj({"a": False}), "`not`"),
    (obj({"a": {"not": TEXT}}), obj({"a": {"not": WHOLE}}), "cannot be compared"),
    (
        obj({"a": {"prefixItems": [TEXT], "items": False}}),
        obj({"a": {"items": False}}),
        "`prefixItems`",
    ),
    (
        obj({"a": {"$ref": "#/$defs/t"}}, **{"$defs": {"t": TEXT}}),
        obj({"a": {"$ref": "#/$defs/t"}}, **{"$defs": {"t": {**TEXT, "maxLength": 1}}}),
        "maxLength of argument `a`",
    ),
    (
        obj({}, additionalProperties={"type": ["string", "integer"]}),
        obj({"a": TEXT}, additionalProperties={"type": ["string", "integer"]}),
        "type of argument `a` narrowed",
    ),
]


@pytest.mark.parametrize(("old", "new", "says"), INPUT_BREAKS)
def test_an_argument_that_refuses_what_it_took_is_breaking(old, new, says):
    change = compare_contracts(contract(input=old), contract(input=new))
    assert change.status is ContractStatus.BREAKING
    assert any(says in reason for reason in change.reasons), change.reasons
    assert change.needs_major


INPUT_KEEPS = [
    (obj({}), obj({"a": TEXT})),
    (obj({"a": TEXT}, required=["a"]), obj({"a": TEXT})),
    (obj({"a": WHOLE}), obj({"a": NUMBER})),
    (obj({"a": TEXT}), obj({"a": {}})),
    (obj({"a": TEXT}), obj({"a": {"anyOf": [TEXT, {"type": "null"}]}})),
    (obj({"a": TEXT}), obj({"a": {"oneOf": [TEXT, {"type": "null"}]}})),
    (obj({"a": {"enum": ["x"]}}), obj({"a": {"enum": ["x", "y"]}})),
    (obj({"a": {"enum": ["x"]}}), obj({"a": TEXT})),
    (obj({"a": {"const": 1}}), obj({"a": {**WHOLE, "minimum": 1}})),
    (obj({"a": {**WHOLE, "minimum": 1}}), obj({"a": {**WHOLE, "minimum": 0}})),
    (obj({"a": {**TEXT, "pattern": "x"}}), obj({"a": TEXT})),
    (obj({}, additionalProperties=False), obj({})),
    (obj({}, additionalProperties=False), obj({}, additionalProperties=TEXT)),
    (obj({"a": {**TEXT, "description": "x"}}), obj({"a": {**TEXT, "description": "y"}})),
    (
        obj({"a": {"$ref": "#/$defs/t"}}, **{"$defs": {"t": TEXT}}),
        obj({"a": {"$ref": "#/$defs/u"}}, **{"$defs": {"u": TEXT}}),
    ),
]


@pytest.mark.parametrize(("old", "new"), INPUT_KEEPS)
def test_an_argument_that_takes_all_it_took_is_compatible(old, new):
    change = compare_contracts(contract(input=old), contract(input=new, version="1.1.0"))
    assert change.status is ContractStatus.COMPATIBLE, change.reasons
    assert not change.needs_major


OUTPUT_BREAKS = [
    (obj({"a": TEXT}), obj({}), "output field `a` was removed"),
    (obj({"a": TEXT}, required=["a"]), obj({"a": TEXT}), "output field `a` became optional"),
    (obj({"a": WHOLE}), obj({"a": NUMBER}), "widened from integer to number"),
    (obj({"a": TEXT}), obj({"a": {"type": ["string", "null"]}}), "widened"),
    (obj({"a": {"enum": ["x"]}}), obj({"a": {"enum": ["x", "y"]}}), "may now be 'y'"),
    (obj({"a": {"enum": ["x"]}}), obj({"a": TEXT}), "may now be any value"),
    (obj({"a": {**WHOLE, "minimum": 0}}), obj({"a": WHOLE}), "from 0 to no limit"),
    (obj({"a": TEXT}), obj({"a": {"anyOf": [TEXT, {"type": "null"}]}}), "may now be null"),
    (obj({"a": {**TEXT, "pattern": "x"}}), obj({"a": TEXT}), "`pattern`"),
    (obj({}, additionalProperties=TEXT), obj({}), "output field `*`"),
]


@pytest.mark.parametrize(("old", "new", "says"), OUTPUT_BREAKS)
def test_an_output_that_may_surprise_its_reader_is_breaking(old, new, says):
    change = compare_contracts(contract(output=old), contract(output=new))
    assert change.status is ContractStatus.BREAKING
    assert any(says in reason for reason in change.reasons), change.reasons


OUTPUT_KEEPS = [
    (obj({}), obj({"a": TEXT})),
    (obj({}, additionalProperties=False), obj({"a": TEXT}, additionalProperties=False)),
    (obj({"a": TEXT}), obj({"a": TEXT}, required=["a"])),
    (obj({"a": NUMBER}), obj({"a": WHOLE})),
    (obj({"a": {"enum": ["x", "y"]}}), obj({"a": {"enum": ["x"]}})),
    (obj({"a": TEXT}), obj({"a": {"const": "x"}})),
    (obj({"a": {"anyOf": [TEXT, WHOLE]}}), obj({"a": WHOLE})),
]


@pytest.mark.parametrize(("old", "new"), OUTPUT_KEEPS)
def test_an_output_that_says_no_more_than_before_is_compatible(old, new):
    change = compare_contracts(contract(output=old), contract(output=new))
    assert change.status is ContractStatus.COMPATIBLE, change.reasons


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"effect": "read"}, {"effect": "write"}, "effect rose from read to write"),
        ({"effect": "write"}, {"effect": "irreversible"}, "rose"),
        ({"scopes": ["a"]}, {"scopes": ["a", "b"]}, "new scope b"),
        ({"idempotent": True}, {"idempotent": False}, "no longer idempotent"),
    ],
)
def test_wider_rights_are_breaking(old, new, says):
    change = compare_contracts(contract(**old), contract(**new))
    assert change.status is ContractStatus.BREAKING
    assert says in change.reasons[0]


def test_narrower_rights_and_other_changes_are_notes():
    change = compare_contracts(
        contract(scopes=["a", "b"], risk="low"),
        contract(scopes=["a"], effect="read", risk="high", description="Other.", version="1.0.1"),
    )
    assert change.status is ContractStatus.COMPATIBLE
    assert "the effect fell from write to read" in change.notes
    assert "risk changed from low to high" in change.notes


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ("1.0.0", "1.0.0", True),
        ("1.0.0", "1.9.0", True),
        ("1.9.9", "2.0.0", False),
        ("9.0.0", "10.0.0", False),
        ("2.0.0", "1.0.0", True),
    ],
)
def test_a_breaking_change_needs_a_new_major_version(before, after, needed):
    change = compare_contracts(
        contract(version=before), contract(version=after, effect="irreversible")
    )
    assert change.needs_major is needed


def test_a_change_under_the_same_version_and_a_version_that_fell_are_noted():
    assert "still 1.0.0" in " ".join(compare_contracts(contract(), contract(description="x")).notes)
    assert "went back" in " ".join(compare_contracts(contract(), contract(version="0.9.0")).notes)


def tree(**leaf):
    """A schema that contains itself."""
    node = {
        "type": "object",
        "properties": {
            "value": leaf,
            "next": {"$ref": "#/$defs/n"},
            "other": {"$ref": "#/$defs/n"},
        },
    }
    return {"type": "object", "properties": {"root": {"$ref": "#/$defs/n"}}, "$defs": {"n": node}}


def test_recursive_schemas_are_compared_and_come_to_an_end():
    assert promise(tree(type="integer"), tree(type="number"), Side.INPUT) == []
    assert "root.value" in promise(tree(type="number"), tree(type="integer"), Side.INPUT)[0]


def test_a_schema_made_to_explode_is_breaking_and_not_a_hang():
    def wide(limit):
        definitions = {
            f"n{i}": {
                "anyOf": [
                    {"properties": {f"p{j}": {"$ref": f"#/$defs/n{(i + j) % 12}"}}}
                    for j in range(12)
                ]
            }
            for i in range(12)
        }
        definitions["n11"]["anyOf"].append({"maxLength": limit})
        return {"type": "object", "properties": {"a": {"$ref": "#/$defs/n0"}}, "$defs": definitions}

    assert promise(wide(5), wide(4), Side.INPUT)


# --- soundness: "compatible" may never be wrong ---------------------------------------------------

keywords = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            [
                "null",
                "boolean",
                "integer",
                "number",
                "string",
                "array",
                ["string", "null"],
                ["integer", "string"],
            ]
        ),
        "enum": st.lists(
            st.sampled_from([None, True, 0, 1, 1.5, "", "ab", "b"]), min_size=1, unique_by=repr
        ),
        "minimum": st.integers(-1, 2),
        "exclusiveMinimum": st.integers(-1, 2),
        "maximum": st.integers(-1, 2),
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "pattern": st.sampled_from(["a", "^b"]),
        "maxItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
    },
)
schemas = st.recursive(
    keywords | st.booleans(),
    lambda inner: (
        st.builds(lambda a, b: {**a, "items": b}, keywords, inner)
        | st.builds(lambda a: {"anyOf": a}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda a: {"oneOf": a}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda a: {"not": a}, inner)
        | st.builds(lambda a, b: {**a, "allOf": [b]}, keywords, inner)
    ),
    max_leaves=5,
)


@st.composite
def pairs(draw):
    """Two schemas, usually close to each other: unrelated ones are hardly ever compatible."""
    one = draw(schemas)
    if not isinstance(one, dict) or draw(st.integers(0, 4)) == 0:
        return one, draw(schemas)
    kept = {key: value for key, value in one.items() if draw(st.integers(0, 2))}
    added = draw(keywords) if draw(st.booleans()) else {}
    two = {**kept, **added} if draw(st.booleans()) else {"anyOf": [kept, draw(schemas)]}
    return draw(st.sampled_from([(one, two), (two, one)]))


VALUES = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    1.5,
    0.5,
    "",
    "a",
    "b",
    "ab",
    "bab",
    [],
    [0],
    [0, 0],
    ["a", 1, None],
    [[1]],
    {},
    {"x": 1},
]


@settings(max_examples=400, deadline=None)
@given(pairs(), st.booleans())
def test_what_is_called_compatible_refuses_nothing_that_was_accepted(pair, required):
    one, two = pair
    needed = ["a"] if required else []
    old, new = obj({"a": one}, required=["a"]), obj({"a": two}, required=needed)
    if promise(old, new, Side.INPUT):
        return
    before, after = Draft202012Validator(old), Draft202012Validator(new)
    for value in VALUES:
        assert not before.is_valid({"a": value}) or after.is_valid({"a": value}), value


@settings(max_examples=400, deadline=None)
@given(pairs())
def test_what_is_called_compatible_returns_nothing_that_was_impossible(pair):
    one, two = pair
    old, new = obj({"a": one}), obj({"a": two})
    if promise(old, new, Side.OUTPUT):
        return
    before, after = Draft202012Validator(old), Draft202012Validator(new)
    for value in VALUES:
        assert not after.is_valid({"a": value}) or before.is_valid({"a": value}), value


@given(schemas)
def test_a_schema_always_keeps_its_own_promises(schema):
    for side in Side:
        assert promise(obj({"a": schema}), obj({"a": schema}), side) == []
