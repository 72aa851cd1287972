"""Properties of every decision, whatever the policies and the request."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import DecisionValue
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine

SLOW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FAST = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text() | st.sampled_from(["__entity", "__extn", "type", "id", "fn", "arg"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["order_id", "amount", "count", "note", "tags", "speed", "address", "extra", "__entity"]
)
PROVENANCE = st.sampled_from(["user", "trusted", "untrusted", "model"])

CONDITIONS = st.sampled_from(
    [
        "",
        "when { principal.verified }",
        "unless { principal.verified }",
        'when { context.provenance.order_id == "user" }',
        'when { context.provenance.amount != "untrusted" }',
        "when { context.session.untrusted_seen }",
        "when { context.session.calls > 3 }",
        'when { context.input.amount.greaterThan(decimal("50.0")) }',
        'when { context.input.amount.lessThan(decimal("0.5")) }',
        'when { context.input has note && context.input.note like "*x*" }',
        'when { context.input.order_id == "o1" }',
    ]
)
PRINCIPALS = st.sampled_from(
    ["principal", 'principal in Agent::Role::"customer"', 'principal in Agent::Role::"manager"']
)
ACTIONS = st.sampled_from(
    [
        "action",
        'action == Agent::Action::"refund"',
        'action in [Agent::Action::"refund", Agent::Action::"cancel"]',
        'action in Agent::Action::"effect:irreversible"',
        'action in Agent::Action::"effect:read"',
    ]
)


@st.composite
def policies(draw, effect, prefix, *, most=4):
    """Random policies of one effect that fit the tool `refund`."""
    found = []
    for number in range(draw(st.integers(0, most))):
        condition = draw(CONDITIONS)
        action = draw(ACTIONS)
        # conditions on the input of one tool need a scope that covers only it
        if "input" in condition or "provenance" in condition:
            action = 'action == Agent::Action::"refund"'
        head = f'@id("{prefix}{number}")'
        tail = ""
        if prefix == "p" and draw(st.booleans()):
            head += ' @unverified("allow")'
        if prefix == "a":
            head += ' @approval("manager")'
            tail = " unless { context.session.approved }"
        found.append(f"{head} {effect} ({draw(PRINCIPALS)}, {action}, resource) {condition}{tail};")
    return "\n".join(found)


SETS = st.tuples(policies("permit", "p"), policies("forbid", "h"), policies("forbid", "a"))
REQUESTS = st.fixed_dictionaries(
    {
        "order_id": st.sampled_from(["o1", "o2"]),
        "amount": st.sampled_from([0, 0.25, 50, 50.5, 1000]),
        "note": st.sampled_from([None, "", "x"]),
        "roles": st.sets(st.sampled_from(["customer", "manager", "clerk"])),
        "verified": st.booleans(),
        "origins": st.tuples(PROVENANCE, PROVENANCE),
        "calls": st.sampled_from([0, 3, 4]),
        "untrusted_seen": st.booleans(),
    }
)


def to_request(shop, drawn):
    arguments = {name: drawn[name] for name in ("order_id", "amount", "note")}
    return shop.request(
        arguments=arguments,
        roles=frozenset(drawn["roles"]),
        verified=drawn["verified"],
        provenance={
            "order_id": drawn["origins"][0],
            "amount": drawn["origins"][1],
            "note": "user",
        },
        session={
            **shop.session,
            "calls": drawn["calls"],
            "untrusted_seen": drawn["untrusted_seen"],
        },
    )


def build(shop, permit, hard, approval):
    spare = '@id("spare") permit (principal, action == Agent::Action::"cancel", resource);'
    return CedarPolicyEngine(
        shop.sources(permit=f"{permit}\n{spare}", hard=hard, approval=approval)
    )


def alone(shop, policy, request):
    """Tell whether one policy matches, by deciding with it alone in Cedar's own words."""
    import cedarpy

    engine = CedarPolicyEngine(shop.sources())
    actor = request.actor
    chosen = engine._slices[True]["refund"]
    context = {
        "input": chosen.facts.input.convert(request.arguments),
        "session": engine._session(request, approved=False),
        "provenance": chosen.facts.provenance(request.arguments, request.provenance),
    }
    text = policy.replace("forbid (", "permit (", 1)
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "Agent::User", "id": actor.user},
            "action": 'Agent::Action::"refund"',
            "resource": 'Agent::Agent::"shop"',
            "context": context,
        },
        text,
        json.dumps(
            [
                {
                    "uid": {"type": "Agent::User", "id": actor.user},
                    "attrs": {"user": actor.user, "tenant": "default", "verified": actor.verified},
                    "parents": [{"type": "Agent::Role", "id": role} for role in actor.roles],
                }
            ]
        ),
        engine.schema,
    )
    assert not result.diagnostics.errors
    return result.allowed


@SLOW
@given(texts=SETS, drawn=REQUESTS)
def test_the_answer_is_what_the_single_policies_add_up_to(shop, texts, drawn):
    """Forbid wins, no permit denies, approval rules ask: against a model of three lines.

    For an actor nobody verified, a permit that does not speak of such actors is no permit.
    """
    request = to_request(shop, drawn)
    if not drawn["verified"]:
        named = [line for line in texts[0].splitlines() if "verified" in line]
        texts = ("\n".join(named), *texts[1:])
    matching = [
        {line.split('"')[1] for line in text.splitlines() if alone(shop, line, request)}
        for text in texts
    ]
    permits, hard, approval = matching
    decision = build(shop, *texts).decide(request)
    if hard:
        expected = DecisionValue.DENY, hard | approval
    elif not permits:
        expected = DecisionValue.DENY, set()
    elif approval:
        expected = DecisionValue.NEEDS_APPROVAL, approval
    else:
        expected = DecisionValue.ALLOW, permits
    assert (decision.value, set(decision.policy_ids)) == expected
    assert decision.errors == ()


@SLOW
@given(texts=SETS, drawn=REQUESTS)
def test_a_forbid_that_matches_everything_denies_everything(shop, texts, drawn):
    everything = '@id("never") forbid (principal, action, resource);'
    engine = build(shop, texts[0], f"{texts[1]}\n{everything}", texts[2])
    decision = engine.decide(to_request(shop, drawn))
    assert decision.value is DecisionValue.DENY
    assert "never" in decision.policy_ids


@SLOW
@given(texts=SETS, drawn=REQUESTS)
def test_removing_all_permits_denies_everything(shop, texts, drawn):
    request = to_request(shop, drawn)
    decision = build(shop, "", texts[1], texts[2]).decide(request)
    assert decision.value is DecisionValue.DENY
    assert (
        build(shop, "", texts[1], texts[2]).decide_approved(request, role="manager").value
        is DecisionValue.DENY
    )


@SLOW
@given(texts=SETS, drawn=REQUESTS)
def test_adding_a_forbid_never_turns_a_no_into_a_yes(shop, texts, drawn):
    request = to_request(shop, drawn)
    order = [DecisionValue.DENY, DecisionValue.NEEDS_APPROVAL, DecisionValue.ALLOW]
    full = build(shop, *texts).decide(request)
    for fewer in ((texts[0], "", texts[2]), (texts[0], texts[1], "")):
        without = build(shop, *fewer).decide(request)
        assert order.index(full.value) <= order.index(without.value)


@FAST
@given(
    arguments=st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=5),
    provenance=st.dictionaries(NAMES, PROVENANCE | st.text(max_size=3), max_size=9),
    tool=st.sampled_from(["refund", "get_order", "get-issue", "cancel"]) | st.text(max_size=5),
)
def test_random_calls_never_raise_and_never_pass_by_error(
    engine, shop, arguments, provenance, tool
):
    decision = engine.decide(shop.request(tool, arguments, provenance=provenance))
    if decision.value is not DecisionValue.DENY:
        assert decision.policy_ids
        assert not decision.errors
        # allowed only with arguments of the declared types
        assert tool in {"refund", "get_order", "get-issue"}
        assert set(arguments) <= set(engine.sources.contracts[tool].input["properties"])


@FAST
@given(
    session=st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["calls", "now"]), JSON, max_size=4
    )
)
def test_random_session_facts_never_raise(engine, shop, session):
    decision = engine.decide(shop.request(session={**shop.session, **session}))
    if decision.value is DecisionValue.ALLOW:
        assert set(session) <= {*shop.session, "verified", "tenant"}


@FAST
@given(actor=st.fixed_dictionaries({"user": JSON, "tenant": JSON, "verified": JSON}))
def test_random_actors_never_raise(engine, shop, actor):
    request = shop.request()
    decision = engine.decide(replace(request, actor=replace(request.actor, **actor)))
    if decision.value is DecisionValue.ALLOW:
        assert isinstance(actor["user"], str)
        assert isinstance(actor["tenant"], str)
        assert actor["verified"] is True


@pytest.mark.parametrize("amount", [10, 75])
def test_deciding_twice_gives_the_same_answer(engine, shop, amount):
    request = shop.request(arguments={"order_id": "o1", "amount": amount})
    assert engine.decide(request) == engine.decide(request)
