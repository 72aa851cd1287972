"""The approval state machine keeps its rules whatever is done to it, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.trust.approval.rules import (
    FINAL_STATES,
    Approval,
    ApprovalState,
    answer,
    at_time,
    execute,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
CLERK = Actor("bob", "bank", frozenset({"clerk"}), verified=True)

WAITING = Approval(
    approval_id="apr-1", action_digest="sha256:a", tool="close_account", arguments={"id": 1},
    agent="support", agent_digest="sha256:g", policy_digest="sha256:p", session_id="s",
    call_id="c", tenant="bank", requested_by="eve", role="clerk", reason="irreversible",
    state=ApprovalState.WAITING, created_at=START, expires_at=START + timedelta(seconds=60),
)  # fmt: skip
APPROVED = replace(WAITING, state=ApprovalState.APPROVED, answered_by="bob", answered_at=START)


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


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["yes", "no", "execute"]),
        st.sampled_from([CLERK, Actor("eve", "bank", frozenset({"clerk"})), ANONYMOUS]),
        st.sampled_from(["sha256:a", "sha256:b"]),
        st.sampled_from(["", "because"]),
        st.integers(0, 40),
    ),
    max_size=8,
)


@given(steps=STEPS)
def test_no_sequence_of_attempts_breaks_a_rule(steps):
    approval, now, executions = WAITING, START, 0
    for action, by, digest, reason, wait in steps:
        now += timedelta(seconds=wait)
        before = approval
        try:
            if action == "execute":
                approval = execute(approval, action_digest=digest, now=now)
                executions += 1
                assert before.state is ApprovalState.APPROVED
                assert digest == before.action_digest
            else:
                approval = answer(approval, by=by, approve=action == "yes", reason=reason, now=now)
                assert before.state is ApprovalState.WAITING
                assert by is CLERK
                assert action == "yes" or reason
            assert before.state not in FINAL_STATES
            assert now < before.expires_at
        except ApprovalError:
            assert approval is before
    assert executions <= 1
    assert (approval.state is ApprovalState.EXECUTED) == (executions == 1)
    if executions:
        assert approval.answered_by == "bob"
