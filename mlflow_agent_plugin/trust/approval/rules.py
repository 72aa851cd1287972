"""The approval state machine: every rule, no I/O, the time passed in.

::

    waiting --enough yeses--> approved --execute--> executed
       |                         |
       +--reject--> rejected     |
       +--edit----> edited       |   (and a new approval, about the edited call)
       +--time----> expired <----+

Rules, in the order they are checked:
1. An approval is bound to one exact action (tool, arguments, call, session, agent digest, policy
   digest: `ToolCall.action_digest`) and is worthless for any other.
2. It has a deadline, for the answer and for the execution: from `expires_at` on it is expired,
   whatever it was before, unless it was rejected, edited or executed.
3. Only a waiting approval can be answered; `rejected`, `edited`, `expired` and `executed` are
   final.
4. Whoever answers belongs to the same tenant, has the role that was asked for, and is not the
   requester; if the approval is `verified_only`, he has logged in. To other tenants the approval
   does not exist.
5. While somebody's claim lasts, nobody else answers.
6. It is approved when `quorum` different people said yes: one vote a person, however he spells his
   name. One no is enough to reject it.
7. A rejection and an edit give a reason.
8. An edit is a new approval of the same call with other arguments, the same deadline and the same
   quorum; of all votes only the editor's counts for it. It never changes the tool, the call, the
   session or on whose behalf.
9. Only an approved approval can be executed, once, and only as the action it was given for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.trust.approval.record import (
    FINAL_STATES,
    Approval,
    ApprovalState,
    Vote,
)

MAX_CLAIM_SECONDS = 3600.0
"""Longest time one claim may keep others from answering."""


def at_time(approval: Approval, now: datetime) -> Approval:
    """Return the approval as it stands at `now`: expired (rule 2), a claim that lapsed gone."""
    if approval.claimed_until is not None and now >= approval.claimed_until:
        approval = replace(approval, claimed_by=None, claimed_until=None)
    if approval.state in FINAL_STATES or now < approval.expires_at:
        return approval
    return replace(approval, state=ApprovalState.EXPIRED)


def answer(
    approval: Approval,
    *,
    by: Actor,
    approve: bool,
    reason: str,
    now: datetime,
    require_verified: bool = False,
) -> Approval:
    """Return the approval with one more answer.

    Args:
        approval: The approval.
        by: Who answers.
        approve: Yes or no.
        reason: Why; a rejection needs one.
        now: The time.
        require_verified: Accept answers only from actors whose credential was checked, even if the
            approval itself would not insist.

    Raises:
        ApprovalError: The answer breaks a rule (1 to 7 above).
    """
    where = f"approval {approval.approval_id}"
    current = _may_answer(approval, by, now, require_verified=require_verified)
    if any(is_same_person(vote.voter, by.user) for vote in current.votes):
        raise ApprovalError(f"{by.user} has answered already", where=where)
    text = reason.strip() or None
    if not approve and text is None:
        raise ApprovalError("a rejection needs a reason", where=where)
    vote = Vote(by.user, yes=approve, verified=by.verified, reason=text, voted_at=now)
    voted = replace(current, votes=(*current.votes, vote), claimed_by=None, claimed_until=None)
    if approve and voted.yeses < voted.quorum:
        return voted
    return replace(
        voted,
        state=ApprovalState.APPROVED if approve else ApprovalState.REJECTED,
        answered_by=by.user,
        answered_at=now,
        answer_reason=text,
    )


def edit(
    approval: Approval,
    *,
    by: Actor,
    arguments: Mapping[str, Any],
    action_digest: str,
    new_id: str,
    reason: str,
    now: datetime,
    require_verified: bool = False,
) -> tuple[Approval, Approval]:
    """Return the approval that was edited away, and the one about the edited call.

    Args:
        approval: The approval.
        by: Who edits; his yes to the edited call is given with it.
        arguments: The arguments he wants instead.
        action_digest: Digest of the call with these arguments.
        new_id: Id of the new approval.
        reason: Why.
        now: The time.
        require_verified: As for `answer`.

    Raises:
        ApprovalError: The edit breaks a rule (1 to 8 above), or changes nothing.
    """
    where = f"approval {approval.approval_id}"
    current = _may_answer(approval, by, now, require_verified=require_verified)
    text = reason.strip() or None
    if text is None:
        raise ApprovalError("an edit needs a reason", where=where)
    if action_digest == approval.action_digest:
        raise ApprovalError(
            "the edited call is the same call", where=where, hint="Approve it instead."
        )
    fresh = replace(
        current,
        approval_id=new_id,
        action_digest=action_digest,
        arguments=dict(arguments),
        created_at=now,
        claimed_by=None,
        claimed_until=None,
        edited_from=approval.approval_id,
        votes=(),
    )
    edited = replace(
        current,
        state=ApprovalState.EDITED,
        claimed_by=None,
        claimed_until=None,
        answered_by=by.user,
        answered_at=now,
        answer_reason=text,
        replaced_by=new_id,
    )
    agreed = answer(
        fresh, by=by, approve=True, reason=reason, now=now, require_verified=require_verified
    )
    return edited, agreed


def claim(
    approval: Approval,
    *,
    by: Actor,
    seconds: float,
    now: datetime,
    require_verified: bool = False,
) -> Approval:
    """Return the approval reserved for `by`; whoever holds the claim may extend it.

    Raises:
        ApprovalError: `by` may not answer it (rules 1 to 5), or the time is not sensible.
    """
    where = f"approval {approval.approval_id}"
    if not 0 < seconds <= MAX_CLAIM_SECONDS:
        raise ApprovalError(
            f"a claim lasts more than 0 and at most {MAX_CLAIM_SECONDS:g} seconds", where=where
        )
    current = _may_answer(approval, by, now, require_verified=require_verified)
    until = min(now + timedelta(seconds=seconds), current.expires_at)
    return replace(current, claimed_by=by.user, claimed_until=until)


def release(approval: Approval, *, by: Actor, now: datetime) -> Approval:
    """Return the approval without `by`'s claim.

    Raises:
        ApprovalError: It is not waiting, or not claimed by `by`.
    """
    where = f"approval {approval.approval_id}"
    if by.tenant != approval.tenant:
        raise not_found(approval.approval_id)
    current = at_time(approval, now)
    if current.state is not ApprovalState.WAITING:
        raise ApprovalError(_already(current), where=where)
    if current.claimed_by is None or not is_same_person(current.claimed_by, by.user):
        raise ApprovalError(f"{by.user} has not claimed it", where=where)
    return replace(current, claimed_by=None, claimed_until=None)


def execute(approval: Approval, *, action_digest: str, now: datetime) -> Approval:
    """Return the approval after its action began.

    Args:
        approval: The approval.
        action_digest: Of the action about to run, computed afresh.
        now: The time.

    Raises:
        ApprovalError: It is about another action, or not approved (any more), or what it says about
            itself does not add up to an approval.
    """
    where = f"approval {approval.approval_id}"
    if action_digest != approval.action_digest:
        raise ApprovalError(
            "the approval was given for another action", where=where, hint="Ask again."
        )
    current = at_time(approval, now)
    if current.state is ApprovalState.WAITING:
        raise ApprovalError("nobody has answered yet", where=where)
    if current.state is not ApprovalState.APPROVED:
        raise ApprovalError(_already(current), where=where)
    counted = [vote for vote in current.votes if vote.verified or not current.verified_only]
    if sum(vote.yes for vote in counted) < current.quorum or not all(vote.yes for vote in counted):
        raise ApprovalError("its votes do not add up to an approval", where=where)
    return replace(current, state=ApprovalState.EXECUTED, executed_at=now)


def is_same_person(one: str, other: str) -> bool:
    """Say whether two user names are the same but for case and Unicode spelling."""
    return _folded(one) == _folded(other)


def not_found(approval_id: str) -> ApprovalError:
    """Return the error for an approval that does not exist, or not for this tenant."""
    return ApprovalError("no such approval", where=f"approval {approval_id}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _may_answer(
    approval: Approval, by: Actor, now: datetime, *, require_verified: bool
) -> Approval:
    """Return the approval as it stands now if `by` may answer it (rules 2 to 5)."""
    where = f"approval {approval.approval_id}"
    if by.tenant != approval.tenant:
        raise not_found(approval.approval_id)
    current = at_time(approval, now)
    if current.state is not ApprovalState.WAITING:
        raise ApprovalError(_already(current), where=where)
    if is_same_person(by.user, current.requested_by):
        raise ApprovalError(
            f"{by.user} asked for this action and cannot answer for it", where=where
        )
    if (require_verified or current.verified_only) and not by.verified:
        raise ApprovalError(
            f"{by.user} has not logged in",
            where=where,
            hint="Answer with a signed token: set MLFLOW_AGENTS_ACTOR_TOKEN.",
        )
    if current.role not in by.roles:
        raise ApprovalError(f"{by.user} does not have the role {current.role}", where=where)
    if current.claimed_by is not None and not is_same_person(current.claimed_by, by.user):
        assert current.claimed_until is not None
        raise ApprovalError(
            f"{current.claimed_by} is looking at it until "
            f"{current.claimed_until.isoformat(timespec='seconds')}",
            where=where,
        )
    return current


def _already(approval: Approval) -> str:
    if approval.state is ApprovalState.EXPIRED:
        return f"expired at {approval.expires_at.isoformat(timespec='seconds')}"
    if approval.state is ApprovalState.EXECUTED:
        return "its action was already executed"
    if approval.state is ApprovalState.EDITED:
        return f"{approval.answered_by} already edited it: see approval {approval.replaced_by}"
    return f"{approval.answered_by} already {approval.state.value} it"
