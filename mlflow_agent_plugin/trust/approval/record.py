"""What an approval is: plain values, no rules (they are in `rules`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any


class ApprovalState(str, Enum):
    """Where an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EDITED = "edited"
    EXPIRED = "expired"
    EXECUTED = "executed"


FINAL_STATES = frozenset(
    {
        ApprovalState.REJECTED,
        ApprovalState.EDITED,
        ApprovalState.EXPIRED,
        ApprovalState.EXECUTED,
    }
)


@dataclass(frozen=True)
class Vote:
    """One person's answer.

    Attributes:
        voter: Who.
        yes: For or against.
        verified: Whether his credential was checked when he answered.
        reason: What he said.
        voted_at: When.
    """

    voter: str
    yes: bool
    verified: bool
    reason: str | None
    voted_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**vars(self), "voted_at": self.voted_at.isoformat()}


@dataclass(frozen=True)
class Approval:
    """Humans' answer bound to one exact action, or the question still open.

    Attributes:
        action_digest: The one action it is about, see `ToolCall.action_digest`.
        requested_by: User on whose behalf the agent wants to act; may not answer.
        role: Role whose holders may answer.
        reason: Why a human is asked.
        expires_at: When it becomes worthless.
        answered_by: Who gave the answer that settled it.
        answer_reason: What that person said.
        request_id: The request it came up in, None if unknown.
        quorum: How many different people have to say yes.
        verified_only: Only people whose credential was checked may answer.
        votes: The answers so far, the oldest first.
        claimed_by: Who reserved it for himself, until `claimed_until`.
        edited_from: The approval this one is an edit of.
        replaced_by: The approval about the edited call, if this one was edited.
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
    request_id: str | None = None
    quorum: int = 1
    verified_only: bool = False
    claimed_by: str | None = None
    claimed_until: datetime | None = None
    edited_from: str | None = None
    replaced_by: str | None = None
    votes: tuple[Vote, ...] = ()

    @property
    def yeses(self) -> int:
        """How many people said yes so far."""
        return sum(vote.yes for vote in self.votes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        values: dict[str, Any] = dict(vars(self))
        for name, value in values.items():
            if isinstance(value, datetime):
                values[name] = value.isoformat()
        values["arguments"] = dict(self.arguments)
        values["state"] = self.state.value
        values["votes"] = [vote.to_dict() for vote in self.votes]
        return values
