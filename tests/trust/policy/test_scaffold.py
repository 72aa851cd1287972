"""The default policy pack, for contracts nobody has seen."""

from __future__ import annotations

import pytest
from helpers.scale import scaled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import Actor, DecisionValue, PolicyRequest
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.package import ToolContract
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, PolicySources, scaffold_policies
from mlflow_agent_plugin.trust.policy.policy_tests import run_cases

ALLOW, DENY, ASK = DecisionValue.ALLOW, DecisionValue.DENY, DecisionValue.NEEDS_APPROVAL
ORIGINS = ["user", "trusted", "untrusted", "model"]
NAMES = [
    "to",
    "my-param",
    "in",
    "if",
    "has",
    "Größe",
    "a b",
    "principal",
    "x.y",
    'q"\\\n\u200b😀',
    "text",
]
SCHEMAS = [
    {"type": "string"},
    {"type": "integer"},
    {"type": ["string", "null"]},
    {"type": "array", "items": {"type": "string"}},
    {"type": "object"},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
]
VALUES = {"string": "v", "integer": 1, "array": ["v"], "object": {"k": "v"}}


def contract(**fields):
    return ToolContract.model_validate(
        {
            "apiVersion": "mlflow-agents/v1",
            "name": "act",
            "version": "1.0.0",
            "description": "d",
            "input": {
                "type": "object",
                "properties": {"to": {"type": "string"}, "text": {"type": "string"}},
                "required": ["to", "text"],
                "additionalProperties": False,
            },
            "output": {"type": "object"},
            "effect": "write",
            **fields,
        }
    )


def pack(*contracts, **options):
    by_name = {item.name: item for item in contracts}
    files = scaffold_policies(by_name, **options)
    return CedarPolicyEngine(
        PolicySources(
            agent="a",
            contracts=by_name,
            usable_tools=tuple(by_name),
            files={name: text for name, text in files.items() if name.endswith(".cedar")},
            roles={"approver": "Answers"},
            tests=files["tests.yaml"],
        )
    )


def decide(engine, arguments, origins, *, tool="act", seen=True, verified=True):
    return engine.decide(
        PolicyRequest(
            actor=Actor(user="u", tenant="t", verified=verified),
            agent="a",
            tool=tool,
            arguments=arguments,
            session={
                "environment": "production",
                "calls": 1,
                "turn": 1,
                "untrusted_seen": seen,
                "now": 0,
            },
            provenance=origins,
        )
    ).value


CALL = {"to": "bob", "text": "hello"}


@pytest.mark.parametrize(
    ("fields", "origins", "expected"),
    [
        ({"sink_arguments": ["to"]}, ("user", "untrusted"), ALLOW),
        ({"sink_arguments": ["to"]}, ("trusted", "model"), ALLOW),
        ({"sink_arguments": ["to"]}, ("trusted", "untrusted"), ASK),
        ({"sink_arguments": ["to"]}, ("untrusted", "user"), ASK),
        ({"sink_arguments": ["to"]}, ("model", "user"), ASK),
        ({"sink_arguments": []}, ("model", "model"), ALLOW),
        ({"sink_arguments": []}, ("untrusted", "model"), ALLOW),
        ({"sink_arguments": [], "effect": "irreversible"}, ("untrusted", "model"), ASK),
        ({}, ("user", "user"), ALLOW),
        ({}, ("user", "model"), ASK),
        ({"effect": "read"}, ("untrusted", "untrusted"), ALLOW),
        ({"effect": "read", "sink_arguments": ["to"]}, ("untrusted", "user"), ASK),
        ({"effect": "read", "sink_arguments": ["to"]}, ("trusted", "untrusted"), ALLOW),
        ({"sink_arguments": ["to"], "risk": "high"}, ("user", "user"), ASK),
        ({"effect": "read", "risk": "critical"}, ("user", "user"), ALLOW),
    ],
)
def test_a_call_is_decided_by_its_effect_and_where_its_targets_came_from(fields, origins, expected):
    engine = pack(contract(**fields))
    assert decide(engine, CALL, dict(zip(CALL, origins, strict=True))) is expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, ASK),
        ({"type": "string", "enum": ["hello", "bye"]}, ALLOW),
        ({"anyOf": [{"$ref": "#/$defs/Word"}, {"type": "null"}]}, ALLOW),
        ({"anyOf": [{"$ref": "#/$defs/Word"}, {"type": "string"}]}, ASK),
    ],
)
def test_an_argument_whose_schema_lists_its_values_passes_on_nobodys_words(schema, expected):
    definitions = {"Word": {"type": "string", "enum": ["hello"]}}
    properties = {"to": {"type": "string"}, "text": schema}
    given = {"type": "object", "properties": properties, "$defs": definitions, "required": ["to"]}
    engine = pack(contract(sink_arguments=["to"], input=given))
    assert decide(engine, CALL, {"to": "trusted", "text": "untrusted"}) is expected


def test_what_the_model_made_up_passes_while_no_third_partys_text_was_read():
    engine = pack(contract(sink_arguments=["to"]))
    assert decide(engine, CALL, dict.fromkeys(CALL, "model"), seen=False) is ALLOW


def test_nobody_is_asked_for_a_stranger_to_do_what_cannot_be_taken_back():
    engine = pack(contract(effect="irreversible", sink_arguments=["to"]))
    origins = {"to": "untrusted", "text": "user"}
    assert decide(engine, CALL, origins, verified=False) is DENY
    assert decide(engine, CALL, origins) is ASK


def test_an_absent_target_vouches_for_nothing():
    optional = {"type": "object", "properties": contract().input["properties"]}
    engine = pack(contract(input=optional, sink_arguments=["to"]))
    assert decide(engine, {"text": "x"}, {"text": "untrusted"}) is ASK
    assert decide(engine, {"text": "x"}, {"text": "model"}) is ALLOW


def test_a_new_tool_is_denied_until_somebody_permits_it():
    engine = pack(contract(), contract(name="other"), tools=["act"])
    assert decide(engine, CALL, dict.fromkeys(CALL, "user"), tool="other") is DENY


def test_the_pack_depends_on_no_name():
    one = contract(sink_arguments=["to"], description="Send money", scopes=["pay"])
    renamed = one.model_copy(update={"name": "zzz", "description": "Delete everything"})
    before, after = scaffold_policies({"act": one}), scaffold_policies({"zzz": renamed})
    assert {k: v.replace("act", "zzz") for k, v in before.items() if k != "tests.yaml"} == {
        k: v.replace("action", "zzzion").replace("act", "zzz")
        for k, v in after.items()
        if k != "tests.yaml"
    }


def test_a_contract_whose_arguments_cannot_be_made_up_needs_an_example():
    odd = {"type": "object", "properties": {"to": {"type": "string", "pattern": "^Q{7}$"}}}
    odd["required"] = ["to"]
    with pytest.raises(PolicyError, match="no arguments can be made up"):
        scaffold_policies({"act": contract(input=odd)})
    helped = contract(input=odd, examples=[{"input": {"to": "Q" * 7}, "output": {}}])
    assert all(result.passed for result in run_cases(pack(helped)))


@st.composite
def contracts(draw):
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    schemas = {name: draw(st.sampled_from(SCHEMAS)) for name in names}
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    return contract(
        input={
            "type": "object",
            "properties": schemas,
            "required": draw(some),
            "additionalProperties": False,
        },
        effect=draw(st.sampled_from(["read", "write", "irreversible"])),
        sink_arguments=draw(st.none() | some),
        risk=draw(st.sampled_from(["low", "medium", "high", "critical"])),
        scopes=draw(st.lists(st.sampled_from(["a:read", "b/w", "ü"]), max_size=2)),
    )


def _call(draw, found):
    properties = found.input["properties"]
    names = [n for n in properties if n in found.input["required"] or draw(st.booleans())]
    arguments = {}
    for name in names:
        kind = properties[name].get("type", "string")
        arguments[name] = VALUES[kind if isinstance(kind, str) else "string"]
    return arguments, {name: draw(st.sampled_from(ORIGINS)) for name in names}


@settings(
    max_examples=scaled(60, 3000), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.data())
def test_no_write_runs_whose_sink_is_untrusted_or_made_up_after_untrusted_text(data):
    found = data.draw(contracts())
    engine = pack(found)
    assert all(result.passed for result in run_cases(engine))
    for _ in range(8):
        arguments, origins = _call(data.draw, found)
        seen, verified = data.draw(st.booleans()), data.draw(st.booleans())
        decision = decide(engine, arguments, origins, seen=seen, verified=verified)
        sinks = {origins[name] for name in found.sinks() if name in origins}
        if "untrusted" in sinks or (seen and "model" in sinks):
            assert decision is not ALLOW
        elif decision is DENY:
            raise AssertionError("only a target of third parties is denied outright")
        elif found.effect.value == "read":
            assert decision is ALLOW
        if decision is ALLOW and found.effect.value != "read":
            assert found.risk.value in ("low", "medium")


def test_roles_declared_so_far_are_kept():
    files = scaffold_policies({"act": contract()}, role="boss", roles={"clerk": "Sees: orders"})
    assert files["roles.yaml"].splitlines()[2:] == [
        '  clerk: "Sees: orders"',
        '  boss: "Answers approvals"',
    ]
