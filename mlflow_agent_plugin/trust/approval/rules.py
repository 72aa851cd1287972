"""The approval state machine: every rule, no I/O, the time passed in.

::

    waiting --approve--> approved --execute--> executed
       |                    |
       +--reject--> rejected|
       +--time----> expired <+

Rules, in the order they are checked:
1. An approval is bound to one exact action (tool, arguments, call, session, agent digest, policy
   digest: `ToolCall.action_digest`) and is worthless for any other.
2. It has a deadline, for the answer and for the execution: from `expires_at` on it is expired,
   whatever it was before, unless it was rejected or executed.
3. Only a waiting approval can be answered, once. `rejected`, `expired` and `executed` are final.
4. Whoever answers belongs to the same tenant, has the role that was asked for, and is not the
   requester; where it is demanded, he has logged in. To other tenants the approval does not exist.
5. A rejection gives a reason.
6. Only an approved approval can be executed, once, and only as the action it was given for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ApprovalError


class ApprovalState(str, Enum):
    """Where an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    EXECUTED = "executed"


FINAL_STATES = frozenset({ApprovalState.REJECTED, ApprovalState.EXPIRED, ApprovalState.EXECUTED})


@dataclass(frozen=True)
class Approval:
    """A human's answer bound to one exact action, or the question still open.

    Attributes:
        action_digest: The one action it is about, see `ToolCall.action_digest`.
        requested_by: User on whose behalf the agent wants to act; may not answer.
        role: Role whose holders may answer.
        reason: Why a human is asked.
        expires_at: When it becomes worthless.
        answered_by: User who approved or rejected.
        answer_reason: What that user said.
    """

    approval_id: str
    action_digest: str
    tool: str
    arguments: Mapping[str, Any]
    agent: str
    agent_digest: str
    policy_digest: str
    session_id: str
    call_id: str
    tenant: str
    requested_by: str
    role: str
    reason: str
    state: ApprovalState
    created_at: datetime
    expires_at: datetime
    answered_by: str | None = None
    answered_at: datetime | None = None
    answer_reason: str | None = None
    executed_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        values: dict[str, Any] = dict(vars(self))
        for name, value in values.items():
            if isinstance(value, datetime):
                values[name] = value.isoformat()
        values["arguments"] = dict(self.arguments)
        values["state"] = self.state.value
        return values


def at_time(approval: Approval, now: datetime) -> Approval:
    """Return the approval as it stands at `now` (rule 2)."""
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
    """Return the answered approval.

    Args:
        approval: The approval.
        by: Who answers.
        approve: Yes or no.
        reason: Why; a rejection needs one.
        now: The time.
        require_verified: Accept answers only from actors whose credential was checked.

    Raises:
        ApprovalError: The answer breaks a rule (1 to 5 above).
    """
    where = f"approval {approval.approval_id}"
    if by.tenant != approval.tenant:
        raise not_found(approval.approval_id)
    current = at_time(approval, now)
    if current.state is not ApprovalState.WAITING:
        raise ApprovalError(_already(current), where=where)
    if by.user == approval.requested_by:
        raise ApprovalError(
            f"{by.user} asked for this action and cannot answer for it", where=where
        )
    if require_verified and not by.verified:
        raise ApprovalError(f"{by.user} has not logged in", where=where)
    if approval.role not in by.roles:
        raise ApprovalError(f"{by.user} does not have the role {approval.role}", where=where)
    if not approve and not reason.strip():
        raise ApprovalError("a rejection needs a reason", where=where)
    return replace(
        approval,
        state=ApprovalState.APPROVED if approve else ApprovalState.REJECTED,
        answered_by=by.user,
        answered_at=now,
        answer_reason=reason.strip() or None,
    )


def execute(approval: Approval, *, action_digest: str, now: datetime) -> Approval:
    """Return the approval after its action began.

    Args:
        approval: The approval.
        action_digest: Of the action about to run, computed afresh.
        now: The time.

    Raises:
        ApprovalError: It is about another action, or not approved (any more).
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
    return replace(approval, state=ApprovalState.EXECUTED, executed_at=now)


def not_found(approval_id: str) -> ApprovalError:
    """Return the error for an approval that does not exist, or not for this tenant."""
    return ApprovalError("no such approval", where=f"approval {approval_id}")


def _already(approval: Approval) -> str:
    if approval.state is ApprovalState.EXPIRED:
        return f"expired at {approval.expires_at.isoformat(timespec='seconds')}"
    if approval.state is ApprovalState.EXECUTED:
        return "its action was already executed"
    return f"{approval.answered_by} already {approval.state.value} it"
