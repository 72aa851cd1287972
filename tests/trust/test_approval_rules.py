"""The approval state machine keeps its rules whatever is done to it, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.trust.approval.record import FINAL_STATES, Approval, ApprovalState
from mlflow_agent_plugin.trust.approval.rules import (
    MAX_CLAIM_SECONDS,
    answer,
    at_time,
    claim,
    edit,
    execute,
    release,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
CLERK = Actor("bob", "bank", frozenset({"clerk"}), verified=True)

WAITING = Approval(
    approval_id="apr-1", action_digest="sha256:a", tool="close_account", arguments={"id": 1},
    agent="support", agent_digest="sha256:g", policy_digest="sha256:p", session_id="s",
    call_id="c", tenant="bank", requested_by="eve", role="clerk", reason="irreversible",
    state=ApprovalState.WAITING, created_at=START, expires_at=START + timedelta(seconds=60),
)  # fmt: skip
APPROVED = answer(WAITING, by=CLERK, approve=True, reason="", now=START)


def yes(approval=WAITING, by=CLERK, reason="", now=START, **kw):
    return answer(approval, by=by, approve=True, reason=reason, now=now, **kw)


def no(approval=WAITING, by=CLERK, reason="not convinced", now=START):
    return answer(approval, by=by, approve=False, reason=reason, now=now)


def test_a_yes_says_who_and_when():
    approved = yes(reason="  called the customer ")
    assert approved.state is ApprovalState.APPROVED
    assert (approved.answered_by, approved.answered_at) == ("bob", START)
    assert approved.answer_reason == "called the customer"


@pytest.mark.parametrize(
    ("by", "why"),
    [
        (Actor("bob", "other", frozenset({"clerk"})), "no such approval"),
        (Actor("eve", "bank", frozenset({"clerk"})), "cannot answer for it"),
        (Actor("bob", "bank", frozenset()), "does not have the role clerk"),
        (Actor("bob", "bank", frozenset({"Clerk", "clerks"})), "does not have the role clerk"),
        (ANONYMOUS, "no such approval"),
    ],
    ids=["other tenant", "requester", "no role", "similar role", "anonymous"],
)
def test_only_another_person_of_the_tenant_with_the_role_may_answer(by, why):
    for attempt in (yes, no):
        with pytest.raises(ApprovalError, match=why):
            attempt(by=by)


def test_where_it_is_demanded_only_a_verified_person_may_answer():
    claims_only = Actor("bob", "bank", frozenset({"clerk"}))
    assert yes(by=claims_only).state is ApprovalState.APPROVED
    with pytest.raises(ApprovalError, match="has not logged in"):
        yes(by=claims_only, require_verified=True)
    assert yes(require_verified=True).state is ApprovalState.APPROVED


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_a_rejection_without_reason_is_refused(reason):
    with pytest.raises(ApprovalError, match="needs a reason"):
        no(reason=reason)


@pytest.mark.parametrize("first", [yes, no])
@pytest.mark.parametrize("second", [yes, no])
def test_a_second_answer_is_refused_and_told_the_first(first, second):
    answered = first()
    with pytest.raises(ApprovalError, match=f"bob already {answered.state.value} it"):
        second(answered, by=Actor("carol", "bank", frozenset({"clerk"})))


def test_from_its_deadline_on_it_can_be_neither_answered_nor_executed():
    before, deadline = START + timedelta(seconds=59.999999), START + timedelta(seconds=60)
    assert yes(now=before).state is ApprovalState.APPROVED
    for attempt in (yes, no):
        with pytest.raises(ApprovalError, match="expired at 2026-01-01T00:01:00"):
            attempt(now=deadline)
    assert execute(APPROVED, action_digest="sha256:a", now=before).executed_at == before
    with pytest.raises(ApprovalError, match="expired"):
        execute(APPROVED, action_digest="sha256:a", now=deadline)


def test_what_was_decided_before_the_deadline_stays_decided_after_it():
    late = START + timedelta(days=1)
    executed = execute(APPROVED, action_digest="sha256:a", now=START)
    assert at_time(executed, late).state is ApprovalState.EXECUTED
    assert at_time(no(), late).state is ApprovalState.REJECTED
    assert at_time(WAITING, late).state is ApprovalState.EXPIRED
    assert at_time(APPROVED, late).state is ApprovalState.EXPIRED


def test_it_is_worthless_for_another_action():
    with pytest.raises(ApprovalError, match="another action"):
        execute(APPROVED, action_digest="sha256:b", now=START)


@pytest.mark.parametrize(
    ("approval", "why"),
    [
        (WAITING, "nobody has answered"),
        (no(), "already rejected"),
        (execute(APPROVED, action_digest="sha256:a", now=START), "already executed"),
    ],
)
def test_only_an_approved_action_is_executed_and_only_once(approval, why):
    with pytest.raises(ApprovalError, match=why):
        execute(approval, action_digest="sha256:a", now=START)


def test_it_can_be_written_as_json():
    import json

    values = json.loads(json.dumps(APPROVED.to_dict()))
    assert values["state"] == "approved"
    assert values["expires_at"] == "2026-01-01T00:01:00+00:00"


ANN, DAN = (Actor(name, "bank", frozenset({"clerk"}), verified=True) for name in ("ann", "dan"))
TWO = replace(WAITING, quorum=2)


def change(approval=WAITING, by=CLERK, reason="too much", now=START, **kw):
    values = {"arguments": {"id": 2}, "action_digest": "sha256:b", "new_id": "apr-2", **kw}
    return edit(approval, by=by, reason=reason, now=now, **values)


def reserve(approval=WAITING, by=CLERK, now=START, seconds=30, **kw):
    return claim(approval, by=by, now=now, seconds=seconds, **kw)


def test_a_quorum_is_that_many_different_people():
    once = yes(TWO)
    assert once.state is ApprovalState.WAITING
    assert (once.yeses, once.answered_by) == (1, None)
    with pytest.raises(ApprovalError, match="nobody has answered yet"):
        execute(once, action_digest="sha256:a", now=START)
    twice = yes(once, by=ANN, reason="seen")
    assert twice.state is ApprovalState.APPROVED
    assert [vote.voter for vote in twice.votes] == ["bob", "ann"]
    assert (twice.answered_by, twice.answer_reason) == ("ann", "seen")


@pytest.mark.parametrize("name", ["bob", "BOB", "ｂｏｂ"])
def test_one_person_votes_once_however_he_spells_his_name(name):
    with pytest.raises(ApprovalError, match="has answered already"):
        yes(yes(TWO), by=replace(CLERK, user=name))


@pytest.mark.parametrize("name", ["eve", "EVE", "ｅｖｅ"])
def test_the_requester_may_not_answer_edit_or_claim_under_any_spelling(name):
    for attempt in (yes, no, change, reserve):
        with pytest.raises(ApprovalError, match="cannot answer for it"):
            attempt(by=replace(CLERK, user=name))


def test_one_no_rejects_whatever_the_others_said():
    rejected = no(yes(TWO), by=ANN)
    assert rejected.state is ApprovalState.REJECTED
    assert (rejected.answered_by, rejected.answer_reason) == ("ann", "not convinced")


def test_an_approval_for_verified_people_takes_no_other_answer_and_counts_no_other_vote():
    strict = replace(WAITING, verified_only=True)
    unverified = replace(CLERK, verified=False)
    for attempt in (yes, no, change, reserve):
        with pytest.raises(ApprovalError, match="has not logged in"):
            attempt(strict, by=unverified)
    assert yes(strict).state is ApprovalState.APPROVED
    smuggled = replace(yes(by=unverified), verified_only=True)
    with pytest.raises(ApprovalError, match="do not add up"):
        execute(smuggled, action_digest="sha256:a", now=START)


@pytest.mark.parametrize(
    "forged",
    [
        replace(APPROVED, votes=()),
        replace(APPROVED, quorum=2),
        replace(APPROVED, votes=(*APPROVED.votes, replace(APPROVED.votes[0], yes=False))),
    ],
    ids=["no votes", "too few", "a no among them"],
)
def test_a_row_that_says_approved_without_the_votes_is_not_executed(forged):
    with pytest.raises(ApprovalError, match="do not add up"):
        execute(forged, action_digest="sha256:a", now=START)


def test_an_edit_leaves_the_first_call_behind_and_makes_an_approval_of_the_edited_one():
    before, after = change(TWO)
    assert before.state is ApprovalState.EDITED
    assert (before.replaced_by, before.answered_by, before.answer_reason) == (
        "apr-2", "bob", "too much",
    )  # fmt: skip
    assert (after.approval_id, after.edited_from) == ("apr-2", "apr-1")
    assert (after.action_digest, after.arguments) == ("sha256:b", {"id": 2})
    assert (after.state, after.yeses) == (ApprovalState.WAITING, 1)
    kept = ("tool", "session_id", "call_id", "tenant", "requested_by", "role", "quorum",
            "expires_at", "agent_digest", "policy_digest")  # fmt: skip
    for name in kept:
        assert getattr(after, name) == getattr(TWO, name)
    with pytest.raises(ApprovalError, match="bob already edited it: see approval apr-2"):
        yes(before, by=ANN)
    with pytest.raises(ApprovalError, match="already edited"):
        execute(before, action_digest="sha256:a", now=START)
    assert yes(after, by=ANN).state is ApprovalState.APPROVED


def test_votes_for_the_first_call_do_not_count_for_the_edited_one():
    _, after = change(yes(TWO, by=ANN))
    assert [vote.voter for vote in after.votes] == ["bob"]
    assert yes(after, by=ANN).state is ApprovalState.APPROVED


def test_an_edit_needs_a_reason_and_a_difference():
    with pytest.raises(ApprovalError, match="an edit needs a reason"):
        change(reason=" ")
    with pytest.raises(ApprovalError, match="the same call"):
        change(action_digest="sha256:a")


def test_while_a_claim_lasts_only_its_holder_answers():
    claimed = reserve()
    for attempt in (yes, no, change, reserve):
        with pytest.raises(ApprovalError, match="bob is looking at it until 2026-01-01T00:00:30"):
            attempt(claimed, by=ANN)
    answered = yes(claimed)
    assert (answered.state, answered.claimed_by) == (ApprovalState.APPROVED, None)
    assert reserve(claimed, now=START + timedelta(seconds=20)).claimed_until == (
        START + timedelta(seconds=50)
    )


def test_a_claim_ends_by_itself_by_its_holder_or_with_the_approval():
    claimed, lapsed = reserve(), START + timedelta(seconds=30)
    assert at_time(claimed, lapsed).claimed_by is None
    assert yes(claimed, by=ANN, now=lapsed).answered_by == "ann"
    with pytest.raises(ApprovalError, match="ann has not claimed it"):
        release(claimed, by=ANN, now=START)
    freed = release(claimed, by=CLERK, now=START)
    assert reserve(freed, by=ANN).claimed_by == "ann"
    assert reserve(seconds=3600).claimed_until == WAITING.expires_at
    for other in (replace(CLERK, tenant="other"),):
        with pytest.raises(ApprovalError, match="no such approval"):
            release(claimed, by=other, now=START)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), MAX_CLAIM_SECONDS + 1])
def test_a_claim_that_would_never_or_always_hold_is_refused(seconds):
    with pytest.raises(ApprovalError, match="a claim lasts"):
        reserve(seconds=seconds)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["yes", "no", "execute", "edit", "claim", "release"]),
        st.sampled_from([CLERK, ANN, DAN, Actor("eve", "bank", CLERK.roles, verified=True),
                         replace(DAN, verified=False), ANONYMOUS]),
        st.sampled_from(["sha256:a", "sha256:b", "sha256:c"]),
        st.sampled_from(["", "because"]),
        st.integers(0, 40),
    ),
    max_size=10,
)  # fmt: skip


@given(steps=STEPS, quorum=st.integers(1, 3), verified_only=st.booleans())
def test_no_sequence_of_attempts_breaks_a_rule(steps, quorum, verified_only):
    approval = replace(WAITING, quorum=quorum, verified_only=verified_only)
    now, executed, edits = START, [], 0
    for action, by, digest, reason, wait in steps:
        now += timedelta(seconds=wait)
        before = approval
        try:
            if action == "execute":
                approval = execute(approval, action_digest=digest, now=now)
                executed.append(digest)
            elif action == "edit":
                edits += 1
                gone, approval = change(
                    approval, by=by, reason=reason, now=now, action_digest=digest,
                    new_id=f"apr-e{edits}",
                )  # fmt: skip
                assert gone.state is ApprovalState.EDITED
                assert reason
                assert approval.tool == before.tool
                assert approval.yeses == 1
            elif action == "claim":
                approval = reserve(approval, by=by, now=now)
            elif action == "release":
                approval = release(approval, by=by, now=now)
            else:
                approval = answer(approval, by=by, approve=action == "yes", reason=reason, now=now)
                assert action == "yes" or reason
            assert before.state not in FINAL_STATES
            assert now < before.expires_at == approval.expires_at
            if action != "execute":
                assert before.state is ApprovalState.WAITING
                assert by.user in {"bob", "ann", "dan"}
                assert by.verified or not verified_only
                holder = at_time(before, now).claimed_by
                assert holder in {None, by.user}
        except ApprovalError:
            assert approval is before
    assert len(executed) <= 1
    voters = [vote.voter for vote in approval.votes]
    assert len(voters) == len(set(voters))
    if executed:
        assert executed == [approval.action_digest]
        assert len(voters) >= quorum
        assert all(vote.yes for vote in approval.votes)
        assert "eve" not in voters
