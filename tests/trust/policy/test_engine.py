"""The policy engine: three answers, and never an allow by error."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import pytest

from mlflow_agent_plugin.entities import Decision, DecisionValue
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine
from mlflow_agent_plugin.trust.policy.engine import _without_values

ALLOW, DENY, ASK = DecisionValue.ALLOW, DecisionValue.DENY, DecisionValue.NEEDS_APPROVAL


def refund(amount, **more):
    return {"order_id": "o1", "amount": amount, **more}


# --- Nothing, and unknown things -----------------------------------------------------------------


def test_an_agent_without_policies_is_refused(shop):
    with pytest.raises(PolicyError, match="has no policy"):
        CedarPolicyEngine(shop.sources(permit="// nothing yet\n", hard="", approval=None))


def test_a_tool_no_policy_covers_is_denied_without_error(engine, shop):
    decision = engine.decide(shop.request("cancel", {"order_id": "o1"}))
    assert decision.value is DENY
    assert decision.policy_ids == ()
    assert decision.errors == ()
    assert decision.reason == "No policy permits cancel for this request."


@pytest.mark.parametrize(
    "tool", ["", "nope", "effect:read", "refund ", "REFUND", None, 7, ["refund"]]
)
def test_an_unknown_tool_is_denied_with_an_error(engine, shop, tool):
    decision = engine.decide(shop.request(tool))
    assert decision.value is DENY
    assert decision.errors


def test_a_tool_the_manifest_forbids_is_denied_whatever_the_policies_say(shop):
    engine = CedarPolicyEngine(shop.sources(usable_tools=("get_order",)))
    decision = engine.decide(shop.request())
    assert decision.value is DENY
    assert "manifest" in decision.errors[0]


def test_a_request_about_another_agent_is_denied(engine, shop):
    assert engine.decide(shop.request(agent="bank")).errors


@pytest.mark.parametrize("request_", [None, 1, "refund", object(), {}])
def test_something_that_is_no_request_is_denied(engine, request_):
    decision = engine.decide(request_)
    assert decision.value is DENY
    assert decision.errors


# --- The three answers ---------------------------------------------------------------------------


def test_a_permit_allows_and_is_named(engine, shop):
    decision = engine.decide(shop.request(arguments=refund(10)))
    assert decision.to_dict() == {
        "value": "allow",
        "policy_ids": ["small-refunds"],
        "reason": "Permitted by small-refunds.",
        "approver_role": None,
        "quorum": 1,
        "errors": [],
    }


def test_a_hard_forbid_denies_with_all_ids_and_its_reason(engine, shop):
    request = shop.request(
        arguments=refund(75), provenance={"order_id": "untrusted", "amount": "user"}, verified=False
    )
    decision = engine.decide(request)
    assert decision.value is DENY
    assert decision.policy_ids == ("big-refunds", "not-from-strangers", "verified-only")
    assert "the order must come from the user" in decision.reason


def test_only_an_approval_rule_in_the_way_asks_its_role(engine, shop):
    decision = engine.decide(shop.request(arguments=refund(75)))
    assert decision.value is ASK
    assert decision.policy_ids == ("big-refunds",)
    assert decision.approver_role == "manager"
    assert "more than 50 is much" in decision.reason


def test_nobody_is_asked_about_what_would_be_denied_anyway(engine, shop):
    decision = engine.decide(shop.request(arguments=refund(500)))
    assert decision.value is DENY
    assert decision.policy_ids == ()


def test_two_approval_rules_of_one_role_are_one_question(shop):
    more = shop.approval + shop.approval.replace("big-refunds", "again").replace("50.0", "60.0")
    decision = CedarPolicyEngine(shop.sources(approval=more)).decide(
        shop.request(arguments=refund(75))
    )
    assert decision.value is ASK
    assert decision.policy_ids == ("again", "big-refunds")


def test_two_approval_rules_of_different_roles_deny_because_one_approval_has_one_role(shop):
    more = shop.approval + shop.approval.replace("big-refunds", "again").replace(
        '"manager"', '"clerk"'
    )
    decision = CedarPolicyEngine(shop.sources(approval=more)).decide(
        shop.request(arguments=refund(75))
    )
    assert decision.value is DENY
    assert "clerk and manager" in decision.reason


def test_the_largest_quorum_of_the_rules_that_match_is_asked_for(shop):
    more = shop.approval + shop.approval.replace("big-refunds", "again").replace(
        '@approval("manager")', '@approval("manager") @quorum("3")'
    ).replace("50.0", "60.0")
    engine = CedarPolicyEngine(shop.sources(approval=more))
    assert engine.decide(shop.request(arguments=refund(55))).quorum == 1
    request = shop.request(arguments=refund(75))
    decision = engine.decide(request)
    assert (decision.value, decision.approver_role, decision.quorum) == (ASK, "manager", 3)
    assert "3 different holders of manager" in decision.reason
    assert engine.decide_approved(request, role="manager", quorum=2).value is ASK
    assert engine.decide_approved(request, role="manager", quorum=3).value is ALLOW
    assert "if 3 different holders of manager approve this call" in [
        change.change for change in engine.explain(request).changes
    ]


def test_a_decision_that_took_too_long_is_a_denial_whatever_it_said(shop):
    engine = CedarPolicyEngine(shop.sources(), timeout_seconds=0.0)
    for decision in (
        engine.decide(shop.request()),
        engine.decide_approved(shop.request(arguments=refund(75)), role="manager"),
        pickle.loads(pickle.dumps(engine)).decide(shop.request()),  # noqa: S301
    ):
        assert decision.value is DENY
        assert decision.errors == ("the decision took longer than 0 seconds",)


def test_a_role_the_policies_do_not_know_changes_nothing(engine, shop):
    plain = engine.decide(shop.request())
    more = engine.decide(shop.request(roles=frozenset({"customer", "emperor", "", "\ud800"})))
    assert more == plain


# --- An approved call is decided again -----------------------------------------------------------


def test_an_approved_call_is_allowed_and_names_both_rules(engine, shop):
    request = shop.request(arguments=refund(75))
    decision = engine.decide_approved(request, role="manager")
    assert decision.value is ALLOW
    assert decision.policy_ids == ("big-refunds", "small-refunds")


def test_an_approval_by_another_role_changes_nothing(engine, shop):
    request = shop.request(arguments=refund(75))
    assert engine.decide_approved(request, role="clerk").value is ASK


def test_an_approval_does_not_lift_a_hard_forbid(engine, shop):
    request = shop.request(arguments=refund(75), verified=False)
    assert engine.decide_approved(request, role="manager").value is DENY


def test_an_approval_is_worthless_once_nothing_permits_the_call(engine, shop):
    request = shop.request(arguments=refund(75), roles=frozenset())
    assert engine.decide_approved(request, role="manager").value is DENY


# --- Facts are the host's, complete and of their type --------------------------------------------


@pytest.mark.parametrize("name", ["environment", "calls", "turn", "untrusted_seen", "now"])
def test_a_missing_session_fact_denies(engine, shop, name):
    session = {key: value for key, value in shop.session.items() if key != name}
    decision = engine.decide(shop.request(session=session))
    assert decision.value is DENY
    assert name in decision.errors[0]


@pytest.mark.parametrize(
    "facts",
    [
        {"approved": True},
        {"approved": False},
        {"verified": False},
        {"tenant": "other"},
        {"calls": -1},
        {"calls": True},
        {"calls": 2**63},
        {"calls": 1.0},
        {"now": None},
        {"environment": 3},
        {"untrusted_seen": 0},
        {"spend": 1},
        {3: 4},
    ],
)
def test_a_wrong_session_fact_denies(engine, shop, facts):
    decision = engine.decide(shop.request(session={**shop.session, **facts}))
    assert decision.value is DENY
    assert decision.errors


def test_repeating_the_actors_own_facts_is_fine(engine, shop):
    session = {**shop.session, "verified": True, "tenant": "default"}
    assert engine.decide(shop.request(session=session)).value is ALLOW


@pytest.mark.parametrize(
    "provenance", [{}, {"order_id": "user"}, {"order_id": "me", "amount": "user"}]
)
def test_missing_or_unknown_provenance_denies(engine, shop, provenance):
    decision = engine.decide(shop.request(provenance=provenance))
    assert decision.value is DENY
    assert "provenance" in decision.errors[0]


@pytest.mark.parametrize(
    "actor",
    [
        {"verified": 1},
        {"verified": "yes"},
        {"user": 3},
        {"tenant": None},
        {"user": "\ud800"},
        {"roles": 3},
    ],
)
def test_an_actor_of_wrong_types_denies_even_after_a_good_one(engine, shop, actor):
    assert engine.decide(shop.request()).value is ALLOW
    decision = engine.decide(shop.request(**actor))
    assert decision.value is DENY
    assert decision.errors


def test_odd_names_of_users_and_tenants_are_just_names(engine, shop):
    for name in ["", "a\nb", 'x"; permit(principal,action,resource);', "\0", "☃" * 1000]:
        assert engine.decide(shop.request(user=name, tenant=name)).value is ALLOW


# --- Actors nobody verified -----------------------------------------------------------------------

READS = 'action == Agent::Action::"get_order", resource'


@pytest.mark.parametrize(
    ("permit", "expected"),
    [
        (f'@id("a") permit (principal, {READS});', DENY),
        (f'@id("a") permit (principal in Agent::Role::"customer", {READS});', DENY),
        (f'@id("a") @unverified("allow") permit (principal, {READS});', ALLOW),
        (f'@id("a") permit (principal == Agent::User::"ann", {READS});', ALLOW),
        (f'@id("a") permit (principal == Agent::User::"bob", {READS});', DENY),
        (f'@id("a") permit (principal, {READS}) when {{ !principal.verified }};', ALLOW),
        (f'@id("a") permit (principal, {READS}) when {{ principal.verified }};', DENY),
        (f'@id("a") permit (principal, {READS}) when {{ !context.session.verified }};', ALLOW),
        (f'@id("a") permit (principal, {READS}) when {{ context.session.calls < 3 }};', DENY),
    ],
)
def test_an_unverified_actor_has_only_the_permits_that_name_such_actors(shop, permit, expected):
    engine = CedarPolicyEngine(shop.sources(permit=permit, hard=None, approval=None))
    request = shop.request("get_order", {"order_id": "o1"}, verified=False)
    assert engine.decide(request).value is expected
    assert engine.matching(request) == ({"a"} if expected is ALLOW else set())


def test_a_denied_unverified_actor_is_told_which_permits_are_for_others(engine, shop):
    decision = engine.decide(shop.request("get_order", {"order_id": "o1"}, verified=False))
    assert decision.value is DENY
    assert decision.reason.endswith("customers-read count for verified actors only.")


@pytest.mark.parametrize("verified", [None, 1, 0, "yes", ["x"]])
def test_an_actor_whose_verification_is_no_truth_value_is_denied(engine, shop, verified):
    request = shop.request("get_order", {"order_id": "o1"}, verified=verified)
    decision = engine.decide(request)
    assert decision.value is DENY
    assert decision.errors == ("actor.verified is not true or false",)
    assert engine.matching(request) == frozenset()


def test_an_approval_lifts_no_permit_for_an_unverified_actor(shop):
    """Approval rules alone must stand in the way; here a permit is missing too."""
    engine = CedarPolicyEngine(shop.sources(hard=None))
    request = shop.request("refund", refund(75.5), verified=False)
    assert engine.decide(request).value is DENY
    assert engine.decide_approved(request, role="manager").value is DENY


# --- JSON that tries to be something else --------------------------------------------------------


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = {"a": [value]}
    return value


HOSTILE = {
    "entity in a string": refund(1, note={"__entity": {"type": "Agent::Role", "id": "manager"}}),
    "extension in a string": refund(1, note={"__extn": {"fn": "decimal", "arg": "1.0"}}),
    "extension as a number": refund({"__extn": {"fn": "decimal", "arg": "1.0"}}),
    "expression": refund({"__expr": 'decimal("1.0")'}),
    "decimal as text": refund("1.0"),
    "nan": refund(float("nan")),
    "infinity": refund(float("inf")),
    "minus infinity": refund(float("-inf")),
    "five decimals": refund(0.12345),
    "a sum of floats": refund(0.1 + 0.2),
    "huge number": refund(1e300),
    "huge whole number": refund(10**5000),
    "boolean as number": refund(True),
    "null amount": refund(None),
    "huge integer": refund(1, count=2**63),
    "integer as text": refund(1, count="1"),
    "fraction as integer": refund(1, count=1.5),
    "boolean as integer": refund(1, count=True),
    "unknown argument": refund(1, __entity="x"),
    "unknown argument, deep": refund(1, bomb=deep(1000)),
    "deep in a string": refund(1, note=deep(1000)),
    "deep in a record": refund(1, address={"zip": deep(1000)}),
    "unknown key in a record": refund(1, address={"zip": "1", "__entity": {}}),
    "missing key in a record": refund(1, address={"city": "X"}),
    "array of other things": refund(1, tags=["a", 1]),
    "text as array": refund(1, tags="abc"),
    "lone surrogate": {"order_id": "\ud800", "amount": 1},
    "missing argument": {"order_id": "o1"},
    "not text keys": {1: 2, "order_id": "o1", "amount": 1},
}


@pytest.mark.parametrize("arguments", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_arguments_are_denied_with_an_error_that_holds_no_value(engine, shop, arguments):
    decision = engine.decide(shop.request(arguments=arguments))
    assert decision.value is DENY
    assert decision.errors
    assert len(str(decision.to_dict())) < 600


@pytest.mark.parametrize("arguments", [None, [], "x", 3])
def test_arguments_that_are_no_object_are_denied(engine, shop, arguments):
    decision = engine.decide(replace(shop.request(), arguments=arguments))
    assert decision.value is DENY
    assert decision.errors


def test_nulls_are_absent_and_large_or_odd_texts_are_just_texts(engine, shop):
    for note in [None, "", "x" * 1_000_000, "\0\u202e☃'\"\\`;//*", "{{7*7}}"]:
        assert engine.decide(shop.request(arguments=refund(10, note=note))).value is ALLOW


def test_an_argument_policies_cannot_see_may_hold_anything(engine, shop):
    arguments = refund(10, extra={"__entity": {"type": "x", "id": "y"}, "n": float("nan")})
    assert engine.decide(shop.request(arguments=arguments)).value is ALLOW


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(50, ALLOW), (50.0, ALLOW), (50.0001, ASK), (-0.0, ALLOW), (100, ASK), (100.0001, DENY)],
)
def test_numbers_compare_exactly_to_four_places(engine, shop, amount, expected):
    assert engine.decide(shop.request(arguments=refund(amount))).value is expected


def test_tools_and_arguments_may_have_names_that_are_words_of_cedar(shop):
    rule = (
        '@id("a") permit (principal, action == Agent::Action::"get-issue", resource)'
        ' when { context.input["in"] like "x*" && context.input has "my-param"'
        ' && context.input["my-param"] == "1" };'
    )
    engine = CedarPolicyEngine(shop.sources(permit=rule, hard=None, approval=None))
    assert engine.decide(shop.request("get-issue", {"in": "xy", "my-param": "1"})).value is ALLOW
    assert engine.decide(shop.request("get-issue", {"in": "xy"})).value is DENY


# --- Errors while deciding -----------------------------------------------------------------------


def overflow_engine(shop):
    permit = '@id("all") permit (principal, action == Agent::Action::"refund", resource);'
    hard = (
        '@id("overflows") forbid (principal, action == Agent::Action::"refund", resource)'
        " when { context.input has count && context.input.count * 4 > 10 };"
    )
    return CedarPolicyEngine(shop.sources(permit=permit, hard=hard, approval=None))


def test_a_forbid_that_fails_denies_instead_of_being_skipped(shop):
    engine = overflow_engine(shop)
    assert engine.decide(shop.request(arguments=refund(1, count=1))).value is ALLOW
    decision = engine.decide(shop.request(arguments=refund(1, count=2**62)))
    assert decision.value is DENY
    assert "overflow" in decision.errors[0]


def test_an_approval_is_not_asked_for_when_a_rule_fails(shop):
    approval = (
        '@id("ask") @approval("manager") forbid (principal, action, resource)'
        " unless { context.session.approved };"
    )
    engine = overflow_engine(shop)
    engine = CedarPolicyEngine(
        replace(engine.sources, files={**engine.sources.files, "approval.cedar": approval})
    )
    assert engine.decide(shop.request(arguments=refund(1, count=2))).value is ASK
    assert engine.decide(shop.request(arguments=refund(1, count=2**62))).value is DENY


class Panic(BaseException):
    """What a panic in an extension module looks like: no Exception."""


@pytest.mark.parametrize(
    "error", [Panic("secret"), ValueError("secret"), MemoryError(), RecursionError()]
)
def test_a_failing_engine_denies_and_does_not_repeat_what_the_error_says(shop, error, monkeypatch):
    engine = CedarPolicyEngine(shop.sources())

    class Broken:
        @staticmethod
        def is_authorized(*_):
            raise error

    monkeypatch.setattr(engine, "_cedar", Broken)
    engine._principal = lambda *_, **__: None
    decision = engine.decide(shop.request())
    assert decision.value is DENY
    assert type(error).__name__ in decision.errors[0]
    assert "secret" not in str(decision)
    assert engine.decide_approved(shop.request(), role="manager").value is DENY


def test_the_interrupt_of_a_user_is_not_swallowed(shop, monkeypatch):
    engine = CedarPolicyEngine(shop.sources())

    class Interrupted:
        @staticmethod
        def is_authorized(*_):
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_cedar", Interrupted)
    engine._principal = lambda *_, **__: None
    with pytest.raises(KeyboardInterrupt):
        engine.decide(shop.request())


def test_an_answer_nobody_knows_is_a_denial(shop, monkeypatch):
    engine = CedarPolicyEngine(shop.sources())
    real = engine._cedar

    class Vague:
        @staticmethod
        def is_authorized(*_):
            return real.AuthzResult({"decision": "NoDecision", "diagnostics": {}})

    request = shop.request()
    assert engine.decide(request).value is ALLOW
    monkeypatch.setattr(engine, "_cedar", Vague)
    decision = engine.decide(request)
    assert decision.value is DENY
    assert decision.errors


def test_cedars_messages_lose_the_values_they_quote():
    text = 'context `{input: {"card": "4111"}}` is not valid for `Agent::Action::"x"` in `p1`'
    cleaned = _without_values(text)
    assert "4111" not in cleaned
    assert "`p1`" in cleaned


# --- One engine, many processes and threads ------------------------------------------------------


def test_the_digest_changes_with_policies_roles_and_contracts_and_with_nothing_else(shop):
    same = CedarPolicyEngine(shop.sources())
    assert CedarPolicyEngine(shop.sources(folder="elsewhere", tests="x")).digest == same.digest
    others = [
        shop.sources(content_digest="sha256:1"),
        shop.sources(roles={"customer": "", "clerk": "", "manager": "", "more": ""}),
        shop.sources(contracts=[*shop.contracts, shop.contract("new", {})]),
        shop.sources(
            agent="shop",
            contracts=[{**c, "effect": "write"} for c in shop.contracts],
            permit='@id("a") permit (principal, action == Agent::Action::"get_order", resource);',
        ),
    ]
    digests = {same.digest, *(CedarPolicyEngine(item).digest for item in others)}
    assert len(digests) == 5
    assert all(digest.startswith("sha256:") for digest in digests)


def test_an_engine_survives_pickling_as_the_same_engine(engine, shop):
    copy = pickle.loads(pickle.dumps(engine))
    assert copy.digest == engine.digest
    for amount in (10, 75, 500):
        request = shop.request(arguments=refund(amount))
        assert copy.decide(request) == engine.decide(request)


def test_many_threads_get_the_answers_one_thread_gets(engine, shop):
    requests = [shop.request(arguments=refund(n), user=f"u{n % 7}") for n in range(0, 120, 3)]
    expected = [engine.decide(request) for request in requests]
    wrong: list[tuple[Decision, Decision]] = []

    def work():
        for request, right in zip(requests, expected, strict=True):
            found = engine.decide(request)
            if found != right:
                wrong.append((found, right))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_engine_of_a_bundle_reads_only_digested_content(make_bundle, shop):
    from mlflow_agent_plugin.errors import IntegrityError

    bundle = make_bundle()
    (bundle.policy_dir() / "permit.cedar").write_text(
        '@id("all") permit (principal, action, resource);'
    )
    with pytest.raises(IntegrityError, match=r"permit\.cedar"):
        CedarPolicyEngine.from_bundle(bundle)


def test_the_engine_follows_the_protocol(engine, shop):
    from mlflow_agent_plugin.trust.policy import PolicyEngine

    plain: PolicyEngine = engine
    assert plain.decide(shop.request()).value is ALLOW
    assert isinstance(plain.digest, str)


def test_an_agent_without_tools_needs_no_policies(make_bundle):
    from mlflow_agent_plugin.trust.policy import check_policies

    bundle = make_bundle(
        contracts=[], permit=None, hard=None, approval=None, tests=None, roles=None
    )
    result = check_policies(bundle)
    assert result.policies == 0
    assert result.warnings == ()
