"""gate.yaml: what it may say, and what counts as tighter."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mlflow_agent_plugin.errors import BundleError, RequestError
from mlflow_agent_plugin.package.slots import Slot, twins
from mlflow_agent_plugin.registry.commands import ON_VERSION, Command, is_reserved, parse_body
from mlflow_agent_plugin.registry.requirements import KINDS
from mlflow_agent_plugin.registry.rules import combine, default_rules, loosened, parse_rules

ROOT = Path(__file__).parents[2]


def rules(*requirements, slot="Production", **more):
    import json

    data = {"apiVersion": "mlflow-agents/v1", "protected": {slot: list(requirements)}, **more}
    return parse_rules(json.dumps(data))


SUITE = {"kind": "suite", "name": "s", "minimum": 0.8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("apiVersion: mlflow-agents/v1", "protected"),
        ("apiVersion: mlflow-agents/v1\nprotected: {}", "at least one slot"),
        ("apiVersion: mlflow-agents/v1\nprotected: {Production: []}", "no requirements"),
        ("apiVersion: mlflow-agents/v1\nprotected: {Archived: [{kind: safety}]}", "not a slot"),
        ("apiVersion: mlflow-agents/v1\nprotected: {'@latest': [{kind: safety}]}", "not an alias"),
        ("apiVersion: mlflow-agents/v1\nprotected: {'@v3': [{kind: safety}]}", "not an alias"),
        ("apiVersion: mlflow-agents/v1\nprotected: {Production: [{minimum: 1}]}", "kind"),
        ("apiVersion: mlflow-agents/v1\nprotected: {Production: [{kind: vibes}]}", "kind"),
        (
            "apiVersion: mlflow-agents/v1\nprotected:\n  Production:\n    - kind: safety\n    - kind: suite\n      name: s\n      minimun: 1\n",
            "line 7",
        ),
        (
            "apiVersion: mlflow-agents/v1\nprotected: {Production: [{kind: safety}], production: [{kind: safety}]}",
            "twice",
        ),
        (
            "apiVersion: mlflow-agents/v1\nprotected: {'@champion': [{kind: safety}], '@CHAMPION': [{kind: safety}]}",
            "twice",
        ),
        ("apiVersion: mlflow-agents/v2\nprotected: {Production: [{kind: safety}]}", "apiVersion"),
        (
            "apiVersion: mlflow-agents/v1\nprotected: {Production: [{kind: safety}]}\nunsafe: true",
            "unknown field",
        ),
        (
            "apiVersion: mlflow-agents/v1\nprotected: {Production: [{kind: approvals, count: 0}]}",
            "count",
        ),
    ],
)
def test_what_makes_no_sense_is_one_error_that_names_the_place(text, message):
    with pytest.raises(BundleError) as caught:
        parse_rules(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stages_are_one_slot_in_every_spelling():
    assert list(rules(SUITE, slot="PRODUCTION").protected) == ["Production"]
    assert Slot.parse("staging") == Slot.parse("Staging")
    assert str(Slot.parse("@champion")) == "@champion"


@pytest.mark.parametrize("other", ["CHAMPION", "chämpion", "ｃｈａｍｐｉｏｎ", "champion "])
def test_spellings_some_database_takes_for_one_are_twins(other):
    assert twins("champion", other)
    assert not twins("champion", "challenger")
    assert not twins("champion", "champion")


@pytest.mark.parametrize("key", ["agent.x", "AGENT.x", "ａgent.x", "agent.", " agent.x"])
def test_keys_some_database_takes_for_ours_are_reserved(key):
    assert is_reserved(key)
    assert not is_reserved("agents.x")
    assert not is_reserved("my.agent.x")
    assert not is_reserved(None)


TIGHTER = {
    "suite": [{"minimum": 0.7}, {"minimum": 0.8}, {"minimum": 0.8, "minimum_sample": 200}],
    "no_regression": [{"margin": 0.1}, {"margin": 0.02}, {"margin": 0.02, "confidence": 0.99}],
    "safety": [{}, {"minimum_sample": 50}],
    "contracts": [{}],
    "policy_tests": [{}, {"minimum_tests": 9}],
    "approvals": [{"not_author": False}, {}, {"count": 2}, {"count": 2, "expires_hours": 1}],
    "evidence_max_age": [{"hours": 100}, {"hours": 1}],
    "load": [{"p95_seconds": 2}, {"p95_seconds": 1}, {"p95_seconds": 1, "error_rate": 0.001}],
    "drift": [{"not_author": False}, {}, {"max_age_hours": 1}],
    "soak": [{"hours": 1}, {"hours": 9}, {"hours": 9, "sessions": 5}, {"hours": 9, "sessions": 6}],
}
NEEDED = {
    "suite": {"name": "s"},
    "no_regression": {"suite": "s"},
    "load": {"concurrency": 5},
    "soak": {"slot": "Staging"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tighter_requirement_implies_a_looser_one_and_not_the_other_way(kind):
    ladder = [
        KINDS[kind].model_validate({"kind": kind, **NEEDED.get(kind, {}), **step})
        for step in TIGHTER[kind]
    ]
    for low, high in itertools.combinations(range(len(ladder)), 2):
        assert ladder[high].implies(ladder[low])
        assert not ladder[low].implies(ladder[high])
    for own, other in itertools.product(KINDS, KINDS):
        if own != other:
            one = KINDS[own].model_validate({"kind": own, **NEEDED.get(own, {}), **TIGHTER[own][0]})
            two = KINDS[other].model_validate(
                {"kind": other, **NEEDED.get(other, {}), **TIGHTER[other][0]}
            )
            assert not one.implies(two)


def test_tightening_is_told_from_loosening():
    old = rules(SUITE, {"kind": "safety"})
    assert loosened(old, old) == []
    assert loosened(old, rules({**SUITE, "minimum": 0.9}, {"kind": "safety"})) == []
    assert loosened(old, rules(SUITE, {"kind": "safety"}, {"kind": "contracts"})) == []
    for looser in (
        rules(SUITE),
        rules({**SUITE, "minimum": 0.7}, {"kind": "safety"}),
        rules({**SUITE, "use_lower_bound": False}, {"kind": "safety"}),
        rules(SUITE, {"kind": "safety"}, slot="Staging"),
        rules(SUITE, {"kind": "safety"}, allow_unverified=True),
        rules(SUITE, {"kind": "safety"}, reviewer_role="anybody"),
        rules(SUITE, {"kind": "safety"}, emergency_role="anybody"),
    ):
        assert loosened(old, looser)
    guarded = rules(SUITE, guarded_tags=["deploy"])
    assert loosened(guarded, rules(SUITE))
    assert guarded.guards_tag("DEPLOY")


def test_a_candidates_own_rules_only_add():
    stored = rules(SUITE, {"kind": "safety"}).requirements(Slot.parse("Production"))
    weak = rules({**SUITE, "minimum": 0.1}).requirements(Slot.parse("Production"))
    strict = rules({**SUITE, "minimum": 0.99}, {"kind": "contracts"}).requirements(
        Slot.parse("Production")
    )
    assert combine(stored, weak) == list(stored)
    assert [item.kind for item in combine(stored, strict)] == [
        "suite",
        "safety",
        "suite",
        "contracts",
    ]


def test_the_default_is_strict_and_believes_nobody():
    found = default_rules()
    assert {str(slot) for slot in found.slots()} == {"Production", "@champion"}
    assert not found.allow_unverified
    kinds = {item.kind for item in found.requirements(Slot.parse("Production"))}
    assert {"suite", "safety", "policy_tests", "approvals"} <= kinds


def test_rules_survive_being_stored():
    found = parse_rules((ROOT / "agents/support/gate.yaml").read_text())
    assert parse_rules(found.to_json()) == found
    assert parse_rules(found.to_json()).digest() == found.digest()


@pytest.mark.parametrize("agent", ["support", "incident_triage"])
def test_the_agents_gates_are_in_order(agent):
    assert parse_rules((ROOT / "agents" / agent / "gate.yaml").read_text()).slots()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        '"Production"',
        "{}",
        '{"to": "Production", "verified": true}',
        '{"to": "Production", "comment": "' + "x" * 5000 + '"}',
        '{"to": "Production", "by": ""}',
        '{"to": "Production", "comment": "\\u0000"}',
        '{"to": "Production", "comment": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_a_malformed_command_is_one_line_that_names_it(body):
    with pytest.raises(RequestError) as caught:
        parse_body(Command.REQUEST, body, ON_VERSION)
    assert "agent.request" in str(caught.value)
    assert len(str(caught.value)) < 500
