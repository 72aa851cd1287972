"""Explanations name what matched and what would change the answer."""

from __future__ import annotations

import json

import pytest

from mlflow_agent_plugin.entities import DecisionValue


def changes(engine, request):
    found = engine.explain(request).changes
    return {change.change: change.decision.value.value for change in found}


def test_a_waiting_call_says_who_could_release_it_and_what_would_stop_it(engine, shop):
    explanation = engine.explain(shop.request(arguments={"order_id": "a", "amount": 75}))
    assert explanation.decision.value is DecisionValue.NEEDS_APPROVAL
    assert [p.policy_id for p in explanation.policies if p.decides] == ["big-refunds"]
    assert [p.policy_id for p in explanation.policies if p.matched] == [
        "big-refunds",
        "small-refunds",
    ]
    assert explanation.policies[0].where == "approval.cedar:1"
    assert {c.change: c.decision.value.value for c in explanation.changes} == {
        "if a manager approves this call": "allow",
        "if the actor were not verified": "deny",
        "if the actor did not have the role customer": "deny",
        "if order_id came from untrusted": "deny",
        "if amount were 50": "allow",
        "if amount were 101": "deny",
    }


@pytest.mark.parametrize(
    ("condition", "arguments", "expected"),
    [
        ('context.input.note == "gold"', {"note": "gold"}, {"if note were not 'gold'": "allow"}),
        ('context.input.note != "gold"', {"note": "tin"}, {"if note were 'gold'": "allow"}),
        ("context.input.count > 3", {"count": 9}, {"if count were 3": "allow"}),
        ("3 < context.input.count", {"count": 9}, {"if count were 3": "allow"}),
        ("context.input.count == 9", {"count": 9}, {"if count were 8": "allow"}),
        ('["a", "b"].contains(context.input.note)', {"note": "c"}, {"if note were 'a'": "deny"}),
        ('!["a", "b"].contains(context.input.note)', {"note": "c"}, {"if note were 'a'": "allow"}),
        (
            'context.input.address.zip == "1"',
            {"address": {"zip": "1"}},
            {"if address.zip were not '1'": "allow"},
        ),
        (
            'context.session.environment == "production"',
            {},
            {"if session.environment were not 'production'": "allow"},
        ),
        ("context.session.turn < 2", {}, {"if session.turn were 2": "allow"}),
        (
            'principal.tenant == "default"',
            {},
            {"if the actor's tenant were not 'default'": "allow"},
        ),
        ('principal.user != "amira"', {}, {"if the actor's user were 'amira'": "allow"}),
        ("context.input.count > 9", {}, {}),  # an argument that is not there is not made up
    ],
)
def test_a_compared_fact_is_tried_with_the_values_it_is_compared_with(
    shop, condition, arguments, expected
):
    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine

    names = {"note", "count", "address"} & set(
        condition.replace(".", " ").replace(")", " ").split()
    )
    guards = "".join(f"context.input has {name} && " for name in sorted(names))
    hard = (
        '@id("tested") forbid (principal, action == Agent::Action::"refund", resource)'
        f" when {{ {guards}{condition} }};"
    )
    engine = CedarPolicyEngine(shop.sources(hard=hard, approval=""))
    request = shop.request(arguments={"order_id": "a", "amount": 1, **arguments})
    found = changes(engine, request)
    found.pop("if the actor did not have the role customer", None)
    found.pop("if the actor were not verified", None)
    found.pop("if amount were 101", None)
    assert found == expected


def test_a_changed_argument_never_changes_the_request_itself(engine, shop):
    request = shop.request(arguments={"order_id": "a", "amount": 75, "address": {"zip": "1"}})
    before = json.dumps(request.arguments)
    engine.explain(request)
    assert json.dumps(request.arguments) == before


@pytest.mark.parametrize("amount", [None, "75", float("nan"), 10**400, {"__extn": {}}, [75], True])
def test_a_strange_argument_is_explained_without_raising(engine, shop, amount):
    explanation = engine.explain(shop.request(arguments={"order_id": "a", "amount": amount}))
    assert explanation.decision.value is DecisionValue.DENY


def test_a_denied_call_says_what_would_permit_it(engine, shop):
    assert changes(engine, shop.request(roles=frozenset())) == {
        "if the actor had the role customer": "allow"
    }
    request = shop.request(provenance={"order_id": "untrusted", "amount": "model"})
    assert changes(engine, request) == {"if order_id came from user": "allow"}
    assert changes(engine, shop.request(verified=False)) == {"if the actor were verified": "allow"}


def test_untrusted_content_is_among_the_changes(shop):
    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine

    hard = (
        '@id("tainted") forbid (principal, action == Agent::Action::"refund", resource)'
        " when { context.session.untrusted_seen };"
    )
    engine = CedarPolicyEngine(shop.sources(hard=hard))
    session = {**shop.session, "untrusted_seen": True}
    assert changes(engine, shop.request(session=session)) == {
        "if untrusted content had not been seen in the session": "allow"
    }


def test_a_call_that_nothing_helps_says_so(engine, shop):
    explanation = engine.explain(shop.request("cancel", {"order_id": "a"}))
    assert explanation.changes == ()
    assert "no single change" in str(explanation)


def test_a_permit_that_a_forbid_outvotes_is_told_as_matching(engine, shop):
    request = shop.request(provenance={"order_id": "untrusted", "amount": "user"})
    parts = {p.policy_id: p.describe() for p in engine.explain(request).policies}
    assert parts["not-from-strangers"] == "decides"
    assert parts["small-refunds"] == "matches"
    assert parts["big-refunds"] == "does not match"


def test_a_permit_that_does_not_name_unverified_actors_matches_none(engine, shop):
    explanation = engine.explain(shop.request(verified=False))
    parts = {policy.policy_id: policy.describe() for policy in explanation.policies}
    assert parts["verified-only"] == "decides"
    assert parts["small-refunds"] == "does not match"
    assert parts["big-refunds"] == "does not match"


def test_a_request_with_a_missing_fact_is_explained_without_raising(engine, shop):
    explanation = engine.explain(shop.request(session={}))
    assert explanation.decision.errors
    assert not any(policy.matched for policy in explanation.policies)


@pytest.mark.parametrize("tool", ["nope", None, ["refund"], 3])
def test_an_unknown_tool_is_explained_without_raising(engine, shop, tool):
    explanation = engine.explain(shop.request(tool))
    assert explanation.policies == ()
    assert explanation.decision.errors


def test_an_explanation_has_text_json_and_html_and_escapes_it(engine, shop):
    explanation = engine.explain(shop.request("<script>"))
    assert "<script>" not in explanation._repr_html_()
    good = engine.explain(shop.request(arguments={"order_id": "a", "amount": 75}))
    assert json.loads(json.dumps(good.to_dict()))["decision"]["value"] == "needs_approval"
    assert "  if a manager approves this call -> allow" in str(good).splitlines()
    assert "big-refunds" in good._repr_html_()
