"""A slice passes on what its policies read, and gives the answer of the whole set."""

from __future__ import annotations

import json

import cedarpy
import pytest

from mlflow_agent_plugin.entities import DecisionValue
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine
from mlflow_agent_plugin.trust.policy.slices import used_facts

NOTHING = {"input": frozenset(), "session": frozenset(), "provenance": frozenset()}


def used(condition):
    parsed = json.loads(
        cedarpy.policies_to_json_str(
            f"permit (principal, action, resource) when {{ {condition} }};"
        )
    )
    return used_facts([parsed["staticPolicies"]["policy0"]["conditions"]])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("principal.verified", {}),
        ("context.input.a == 1", {"input": frozenset({"a"})}),
        ("context.input.a.b == 1", {"input": frozenset({"a"})}),
        ('context.input["a"] == 1', {"input": frozenset({"a"})}),
        ("context.input has a", {"input": frozenset({"a"})}),
        ("context.input has a.b", {"input": frozenset({"a"})}),
        ("context.input.a has b", {"input": frozenset({"a"})}),
        ("context has input", {"input": None}),
        ("context.input == {a: 1}", {"input": None}),
        ("[context.session].contains(context.session)", {"session": None}),
        ("context == context", dict.fromkeys(NOTHING)),
        ("[context].contains(context)", dict.fromkeys(NOTHING)),
        (
            "if context.session.verified then context.input.x > 1 else context.input.y",
            {"session": frozenset({"verified"}), "input": frozenset({"x", "y"})},
        ),
    ],
)
def test_the_facts_a_condition_reads(condition, expected):
    assert used(condition) == {**NOTHING, **expected}


def test_a_tool_gets_only_its_own_policies(engine):
    assert engine.policies_for("get_order") == ("customers-read",)
    assert engine.policies_for("refund") == (
        "big-refunds",
        "not-from-strangers",
        "small-refunds",
        "verified-only",
    )
    assert engine.policies_for("cancel") == ()
    assert engine.policies_for("nope") == ()


def test_a_policy_may_compare_a_whole_group(shop):
    permit = (
        '@id("a") permit (principal, action == Agent::Action::"get_order", resource)'
        ' when { context.provenance == {"order_id": "user"} };'
    )
    engine = CedarPolicyEngine(shop.sources(permit=permit, hard=None, approval=None))
    request = shop.request("get_order", {"order_id": "a"})
    assert engine.decide(request).value is DecisionValue.ALLOW
    other = shop.request("get_order", {"order_id": "a"}, provenance={"order_id": "model"})
    assert engine.decide(other).value is DecisionValue.DENY


def test_facts_nobody_reads_are_checked_all_the_same(engine, shop):
    request = shop.request("get_order", {"order_id": 3})
    assert engine._slices[True]["get_order"].used == NOTHING
    assert engine.decide(request).errors
