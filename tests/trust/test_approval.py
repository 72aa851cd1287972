"""The approval queue: one answer, one execution, one tenant, whoever competes."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.errors import AgentError, ApprovalError, StoreError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.approval import ApprovalQueue, ApprovalState
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog, verify_audit
from tests.helpers.scale import scaled

EVE = Actor("eve", "bank", frozenset({"customer"}), verified=True)
CLERK = Actor("bob", "bank", frozenset({"clerk"}), verified=True)
ANN = replace(CLERK, user="ann")
CALL = ToolCall("c1", "close_account", {"account": "DE1", "amount": 1.0}, "s1")


def request(queue, call=CALL, **changes):
    values = {
        "agent": "support", "agent_digest": "sha256:g", "policy_digest": "sha256:p", "actor": EVE,
        "role": "clerk", "reason": "closing is irreversible", "ttl_seconds": 60, **changes,
    }  # fmt: skip
    return queue.request(call, **values)


@pytest.fixture
def audit(store, clock):
    return AuditLog(store, clock=clock)


@pytest.fixture
def queue(store, clock, audit):
    return ApprovalQueue(store, clock, audit=audit)


def test_an_unknown_approval_does_not_exist(queue):
    for attempt in (
        lambda: queue.get("apr-x"),
        lambda: queue.approve("apr-x", CLERK),
        lambda: queue.reject("apr-x", CLERK, "no"),
        lambda: queue.mark_executed("apr-x", action_digest="sha256:a"),
    ):
        with pytest.raises(ApprovalError, match="no such approval"):
            attempt()
    assert queue.find("s1", "c1") is None
    assert queue.list() == []


def test_a_request_is_kept_with_all_it_is_bound_to(queue, clock):
    made = request(queue)
    assert made.state is ApprovalState.WAITING
    assert made.arguments == {"account": "DE1", "amount": 1.0}
    assert (made.expires_at - clock()).total_seconds() == 60
    assert made.action_digest == CALL.action_digest(
        agent_digest="sha256:g", policy_digest="sha256:p"
    )
    assert queue.get(made.approval_id) == queue.find("s1", "c1") == queue.list()[0] == made


def test_asking_again_gives_the_same_approval_answered_or_not(queue, audit):
    first = request(queue)
    assert request(queue, reason="other words") == first
    approved = queue.approve(first.approval_id, CLERK)
    assert request(queue) == approved
    assert len(audit.events(kind=AuditKind.APPROVAL_REQUESTED)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"call": replace(CALL, arguments={"account": "DE2", "amount": 1.0})},
        {"call": replace(CALL, tool="freeze_card")},
        {"agent_digest": "sha256:h"},
        {"policy_digest": "sha256:q"},
    ],
    ids=["arguments", "tool", "agent", "policies"],
)
def test_any_change_of_the_action_needs_an_approval_of_its_own(queue, clock, changes):
    first = request(queue)
    queue.approve(first.approval_id, CLERK)
    clock.advance(1)
    second = request(queue, **changes)
    assert second.approval_id != first.approval_id
    assert second.state is ApprovalState.WAITING
    with pytest.raises(ApprovalError, match="another action"):
        queue.mark_executed(first.approval_id, action_digest=second.action_digest)
    assert queue.find("s1", "c1") == second
    assert (
        queue.find("s1", "c1", action_digest=first.action_digest).approval_id == first.approval_id
    )


def test_another_users_call_under_the_same_ids_gets_nobodys_approval(queue):
    request(queue)
    for stranger in (Actor("mallory", "bank"), Actor("eve", "other")):
        with pytest.raises(ApprovalError, match="no such approval"):
            request(queue, actor=stranger)


@pytest.mark.parametrize(
    "arguments", [{"n": float("nan")}, {"n": 2**60}, {"s": "\ud800"}, {"s": {1, 2}}]
)
def test_arguments_that_have_no_digest_cannot_be_approved(queue, arguments):
    with pytest.raises(ApprovalError, match="cannot be approved"):
        request(queue, replace(CALL, arguments=arguments))
    assert queue.list() == []


def test_arguments_nested_too_deeply_cannot_be_approved(queue):
    deep = value = {}
    for _ in range(100_000):
        value["a"] = value = {}
    with pytest.raises(ApprovalError, match="cannot be approved"):
        request(queue, replace(CALL, arguments=deep))


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("nan")])
def test_a_request_without_time_to_answer_is_refused(queue, ttl_seconds):
    with pytest.raises(ApprovalError, match="must be positive"):
        request(queue, ttl_seconds=ttl_seconds)


def test_hostile_words_are_kept_readable(queue):
    made = request(queue, reason="a\x00b\ud800" + "x" * 5000)
    assert made.reason.startswith("a\\x00b\\ud800x")
    assert len(made.reason) < 1100
    assert queue.reject(made.approval_id, CLERK, "no\x00").answer_reason == "no\\x00"


def test_the_rules_hold_in_the_store(queue, clock):
    made = request(queue)
    for by in (EVE, Actor("bob", "bank"), Actor("bob", "other", CLERK.roles)):
        with pytest.raises(ApprovalError):
            queue.approve(made.approval_id, by)
    with pytest.raises(ApprovalError, match="needs a reason"):
        queue.reject(made.approval_id, CLERK, " ")
    assert queue.get(made.approval_id) == made
    clock.advance(60)
    with pytest.raises(ApprovalError, match="expired"):
        queue.approve(made.approval_id, CLERK)


UNVERIFIED = replace(CLERK, verified=False)


@pytest.mark.parametrize(
    ("require", "requester_verified", "verified_only"),
    [
        (None, True, True), (None, False, False),
        (True, True, True), (True, False, True),
        (False, True, False), (False, False, False),
    ],
)  # fmt: skip
def test_by_default_who_answers_for_somebody_who_logged_in_has_logged_in_too(
    store, clock, require, requester_verified, verified_only
):
    asking = ApprovalQueue(store, clock, require_verified=require)
    made = request(asking, actor=replace(EVE, verified=requester_verified))
    assert made.verified_only is verified_only
    # The answering process's own, looser setting does not matter: the approval says what it takes.
    answering = ApprovalQueue(store, clock, require_verified=False)
    if verified_only:
        with pytest.raises(ApprovalError, match="has not logged in"):
            answering.approve(made.approval_id, UNVERIFIED)
        assert answering.approve(made.approval_id, CLERK).state is ApprovalState.APPROVED
    else:
        assert answering.approve(made.approval_id, UNVERIFIED).state is ApprovalState.APPROVED


def test_an_answering_process_may_be_stricter_than_the_approval(store, clock):
    made = request(ApprovalQueue(store, clock), actor=replace(EVE, verified=False))
    with pytest.raises(ApprovalError, match="has not logged in"):
        ApprovalQueue(store, clock, require_verified=True).approve(made.approval_id, UNVERIFIED)


def test_a_quorum_is_kept_with_its_votes_and_every_vote_is_on_record(store, queue, audit, clock):
    made = request(queue, quorum=2, request_id="r1")
    queue.approve(made.approval_id, CLERK, "looks right")
    clock.advance(1)
    half = queue.get(made.approval_id)
    assert (half.state, half.yeses) == (ApprovalState.WAITING, 1)
    with pytest.raises(ApprovalError, match="answered already"):
        queue.approve(made.approval_id, CLERK)
    with pytest.raises(ApprovalError, match="nobody has answered yet"):
        queue.mark_executed(made.approval_id, action_digest=made.action_digest)
    done = queue.approve(made.approval_id, ANN)
    assert queue.get(made.approval_id) == queue.find("s1", "c1") == queue.list()[0] == done
    assert [(vote.voter, vote.reason) for vote in done.votes] == [
        ("bob", "looks right"), ("ann", None),
    ]  # fmt: skip
    answers = audit.events(request_id="r1", kind=AuditKind.APPROVAL_ANSWERED)
    assert [(e.actor, e.body["state"], e.body["yeses"], e.body["quorum"]) for e in answers] == [
        ("bob", "waiting", 1, 2), ("ann", "approved", 2, 2),
    ]  # fmt: skip
    assert verify_audit(store).ok


@pytest.mark.parametrize("quorum", [0, -1, 17, True])
def test_a_quorum_that_is_no_number_of_people_is_refused(queue, quorum):
    with pytest.raises(ApprovalError, match="is not 1 to 16 people"):
        request(queue, quorum=quorum)


def test_an_edited_call_gets_an_approval_of_its_own_and_both_are_on_record(store, queue, audit):
    made = request(queue, request_id="r1")
    edited = queue.edit(
        made.approval_id, CLERK, {"account": "DE1", "amount": 2.0}, "half is enough"
    )
    before = queue.get(made.approval_id)
    assert (before.state, before.replaced_by) == (ApprovalState.EDITED, edited.approval_id)
    assert (edited.state, edited.edited_from) == (ApprovalState.APPROVED, made.approval_id)
    assert edited.tool == CALL.tool
    assert edited.action_digest == replace(CALL, arguments=edited.arguments).action_digest(
        agent_digest="sha256:g", policy_digest="sha256:p"
    )
    for wrong in (before, replace(edited, action_digest=before.action_digest)):
        with pytest.raises(ApprovalError):
            queue.mark_executed(wrong.approval_id, action_digest=wrong.action_digest)
    assert queue.find("s1", "c1") == edited
    queue.mark_executed(edited.approval_id, action_digest=edited.action_digest)
    (event,) = audit.events(request_id="r1", kind=AuditKind.APPROVAL_EDITED)
    assert event.body["action_digest"] == made.action_digest
    assert event.body["edited_action_digest"] == edited.action_digest
    assert event.body["edited_names"] == ["amount"]
    assert event.body["arguments_digest"] != event.body["edited_arguments_digest"]
    (vote,) = audit.events(request_id="r1", kind=AuditKind.APPROVAL_ANSWERED)
    assert (vote.body["approval_id"], vote.body["edited_from"]) == (
        edited.approval_id, made.approval_id,
    )  # fmt: skip
    assert verify_audit(store).ok


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"account": "DE1", "amount": 1.0}, "the same call"),
        ({"account": "DE1", "amount": 1}, "the same call"),
        ({"n": float("nan")}, "cannot be approved"),
        ({"n": 2**60}, "cannot be approved"),
        ({"s": "\ud800"}, "cannot be approved"),
        (["account"], "not an object"),
        (None, "not an object"),
    ],
)
def test_an_edit_that_is_none_or_has_no_digest_changes_nothing(queue, arguments, why):
    made = request(queue)
    with pytest.raises(ApprovalError, match=why):
        queue.edit(made.approval_id, CLERK, arguments, "because")
    assert queue.list() == [made]


def test_an_edit_back_to_a_call_that_was_edited_away_is_refused(queue):
    made = request(queue, quorum=2)
    edited = queue.edit(made.approval_id, CLERK, {"account": "DE2"}, "other account")
    with pytest.raises(ApprovalError, match="asked about before and edited away"):
        queue.edit(edited.approval_id, ANN, dict(CALL.arguments), "no, the first")
    assert queue.get(edited.approval_id) == edited


def test_a_claim_keeps_the_others_off_until_it_lapses(queue, audit, clock):
    made = request(queue)
    queue.claim(made.approval_id, CLERK, seconds=30)
    for attempt in (
        lambda: queue.claim(made.approval_id, ANN),
        lambda: queue.approve(made.approval_id, ANN),
        lambda: queue.edit(made.approval_id, ANN, {"account": "DE2"}, "x"),
    ):
        with pytest.raises(ApprovalError, match="bob is looking at it"):
            attempt()
    clock.advance(30)
    assert queue.get(made.approval_id).claimed_by is None
    queue.claim(made.approval_id, ANN, seconds=10)
    queue.release(made.approval_id, ANN)
    assert queue.approve(made.approval_id, CLERK).claimed_by is None
    claims = audit.events(kind=AuditKind.APPROVAL_CLAIMED)
    assert [(e.actor, e.body["claimed_until"] is None) for e in claims] == [
        ("bob", False), ("ann", False), ("ann", True),
    ]  # fmt: skip


def test_an_approved_action_is_executed_once(queue, clock):
    made = request(queue)
    with pytest.raises(ApprovalError, match="nobody has answered"):
        queue.mark_executed(made.approval_id, action_digest=made.action_digest)
    queue.approve(made.approval_id, CLERK, "called the customer")
    clock.advance(5)
    used = queue.mark_executed(made.approval_id, action_digest=made.action_digest)
    assert used.executed_at == clock()
    assert queue.get(made.approval_id) == used
    with pytest.raises(ApprovalError, match="already executed"):
        queue.mark_executed(made.approval_id, action_digest=made.action_digest)


def test_an_execution_joins_the_transaction_that_records_it(queue, audit):
    made = request(queue)
    queue.approve(made.approval_id, CLERK)
    with pytest.raises(ZeroDivisionError), audit.transaction() as transaction:
        queue.mark_executed(
            made.approval_id, action_digest=made.action_digest, transaction=transaction
        )
        transaction.append(AuditKind.TOOL_CALL_STARTED, session_id="s1")
        _ = 1 / 0
    assert queue.get(made.approval_id).state is ApprovalState.APPROVED
    assert audit.events(kind=AuditKind.TOOL_CALL_STARTED) == []


def test_a_tenant_sees_its_own_only(queue):
    made = request(queue)
    other = request(queue, replace(CALL, session_id="s2"), actor=Actor("eve", "other"))
    assert queue.list(tenant="bank") == [made]
    assert queue.list(tenant="other") == [other]
    assert queue.list(tenant="nobody") == []
    assert queue.get(made.approval_id, tenant="bank") == made
    with pytest.raises(ApprovalError, match="no such approval"):
        queue.get(made.approval_id, tenant="other")


def test_the_list_shows_states_as_they_are_now_and_the_oldest_first(queue, clock):
    calls = [replace(CALL, call_id=f"c{n}") for n in range(5)]
    made = []
    for call in calls:
        made.append(request(queue, call))
        clock.advance(1)
    approved, rejected, executed, _stale, _ = (approval.approval_id for approval in made)
    queue.approve(approved, CLERK)
    queue.reject(rejected, CLERK, "no")
    queue.approve(executed, CLERK)
    queue.mark_executed(executed, action_digest=made[2].action_digest)

    def ids(state):
        return [approval.call_id for approval in queue.list(state=state)]

    assert ids("waiting") == ["c3", "c4"]
    assert ids(ApprovalState.APPROVED) == ["c0"]
    clock.advance(58.5)  # past the deadlines of c0 to c3, not of c4
    assert ids("waiting") == ["c4"]
    assert ids("approved") == []
    assert ids("expired") == ["c0", "c3"]
    assert ids("rejected") == ["c1"]
    assert ids("executed") == ["c2"]
    assert [approval.call_id for approval in queue.list(session_id="s1", limit=2)] == ["c0", "c1"]
    with pytest.raises(ValueError, match="lost"):
        queue.list(state="lost")


def test_requests_and_answers_are_on_record_with_who_and_why(store, queue, audit):
    made = request(queue)
    queue.reject(made.approval_id, CLERK, "not today")
    asked, answered = audit.events(session_id="s1")
    assert asked.kind == "approval_requested"
    assert (asked.actor, asked.tenant, asked.body["tool"]) == ("eve", "bank", "close_account")
    assert answered.kind == "approval_answered"
    assert answered.actor == "bob"
    assert answered.body["state"] == "rejected"
    assert answered.body["reason"] == "not today"
    assert answered.body["actor"]["verified"] is True
    assert "DE1" not in str([asked.body, answered.body]), "arguments stay out of the audit"
    assert verify_audit(store).ok


def test_an_answer_that_cannot_be_recorded_is_not_given(store, clock):
    class DeafLog(AuditLog):
        def transaction(self):
            raise StoreError("the disk is full")

    made = request(ApprovalQueue(store, clock))
    with pytest.raises(StoreError):
        ApprovalQueue(store, clock, audit=DeafLog(store)).approve(made.approval_id, CLERK)
    assert ApprovalQueue(store, clock).get(made.approval_id) == made


def test_approvals_survive_reopening(store_uri, clock):
    with Store.open(store_uri) as store:
        made = request(ApprovalQueue(store, clock))
    with Store.open(store_uri) as store:
        queue = ApprovalQueue(store, clock)
        assert queue.get(made.approval_id) == made
        queue.approve(made.approval_id, CLERK)


def test_of_many_threads_one_answers(queue, audit):
    made = request(queue)
    barrier, won = threading.Barrier(8), []

    def compete(number):
        by = replace(CLERK, user=f"clerk{number}")
        barrier.wait()
        try:
            if number % 2:
                won.append(queue.approve(made.approval_id, by))
            else:
                won.append(queue.reject(made.approval_id, by, "no"))
        except AgentError:
            pass

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [queue.get(made.approval_id)] == won
    assert len(audit.events(kind=AuditKind.APPROVAL_ANSWERED)) == 1


COMPETE = """
import sys
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.approval import ApprovalQueue
uri, ids, me = sys.argv[1:]
queue = ApprovalQueue(Store.open(uri))
by = Actor(me, "bank", frozenset({"clerk"}), verified=True)
print("ready", flush=True)
sys.stdin.readline()
answered = executed = 0
for approval_id in ids.split(","):
    try:
        queue.approve(approval_id, by)
        answered += 1
    except ApprovalError:
        pass
    digest = queue.get(approval_id).action_digest
    try:
        queue.mark_executed(approval_id, action_digest=digest)
        executed += 1
    except ApprovalError:
        pass
print(answered, executed)
"""


def test_of_four_processes_one_answers_and_one_executes_each_approval(store, store_uri, race):
    queue = ApprovalQueue(store)
    made = [
        request(queue, replace(CALL, call_id=f"c{number}"), ttl_seconds=600) for number in range(25)
    ]
    answers = race(COMPETE, store_uri, ",".join(approval.approval_id for approval in made))
    counts = [tuple(map(int, answer.split())) for answer in answers]
    assert sum(answered for answered, _ in counts) == 25
    assert sum(executed for _, executed in counts) == 25
    assert verify_audit(store).ok


VOTE = """
import sys
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.approval import ApprovalQueue
uri, ids, me = sys.argv[1:]
queue = ApprovalQueue(Store.open(uri))
by = Actor(me, "bank", frozenset({"clerk"}), verified=True)
print("ready", flush=True)
sys.stdin.readline()
counted = 0
for number, approval_id in enumerate(ids.split(",")):
    try:
        if number % 3 == 2 and me == "p1":
            queue.edit(approval_id, by, {"account": "DE9"}, "another account")
        else:
            queue.approve(approval_id, by)
        counted += 1
    except ApprovalError:
        pass
print(counted)
"""


def test_votes_of_several_processes_at_once_are_all_seen_and_never_one_too_many(
    store, store_uri, race
):
    queue = ApprovalQueue(store)
    count = scaled(12, 120)
    made = [
        request(queue, replace(CALL, call_id=f"c{number}"), ttl_seconds=600, quorum=2)
        for number in range(count)
    ]
    answers = race(VOTE, store_uri, ",".join(approval.approval_id for approval in made))
    found = [queue.get(approval.approval_id) for approval in made]
    for approval in found:
        if approval.state is ApprovalState.EDITED:
            edited = queue.get(approval.replaced_by)
            assert (edited.yeses, edited.state) == (1, ApprovalState.WAITING)
        else:
            # A lost update would leave an approval waiting with the two votes it needs.
            assert (approval.yeses, approval.state) == (2, ApprovalState.APPROVED)
    edits = sum(approval.state is ApprovalState.EDITED for approval in found)
    votes = sum(len(approval.votes) for approval in found)
    assert sum(map(int, answers)) == votes + edits
    assert verify_audit(store).ok


LATE = """
import sys
from datetime import datetime, timedelta, timezone
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.approval import ApprovalQueue
uri, ids, me = sys.argv[1:]
# Two of the four are past the deadline, two just before it: the clocks of real machines differ.
late = me in ("p1", "p3")
now = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=60 if late else 59)
queue = ApprovalQueue(Store.open(uri), lambda: now)
by = Actor(me, "bank", frozenset({"clerk"}), verified=True)
print("ready", flush=True)
sys.stdin.readline()
answered = executed = 0
for approval_id in ids.split(","):
    try:
        queue.approve(approval_id, by)
        answered += 1
    except ApprovalError:
        pass
    try:
        queue.mark_executed(approval_id, action_digest=queue.get(approval_id).action_digest)
        executed += 1
    except ApprovalError:
        pass
print(me, answered, executed)
"""


def test_an_answer_that_races_with_the_deadline_counts_only_before_it(
    store, store_uri, race, clock
):
    queue = ApprovalQueue(store, clock)
    made = [request(queue, replace(CALL, call_id=f"c{number}")) for number in range(12)]
    answers = race(LATE, store_uri, ",".join(approval.approval_id for approval in made))
    counts = {me: (int(yes), int(ran)) for me, yes, ran in (a.split() for a in answers)}
    assert counts["p1"] == counts["p3"] == (0, 0)
    assert sum(yes for yes, _ in counts.values()) == 12
    assert sum(ran for _, ran in counts.values()) == 12
    assert verify_audit(store).ok
