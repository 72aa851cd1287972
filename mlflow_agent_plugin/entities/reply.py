"""What goes into an agent's turn and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities.actor import ANONYMOUS, Actor


class Outcome(str, Enum):
    """How a turn ended, seen from the user."""

    ANSWERED = "answered"
    ACTED = "acted"
    CLARIFIED = "clarified"
    REFUSED = "refused"
    ESCALATED = "escalated"
    WAITING_APPROVAL = "waiting_approval"
    FAILED = "failed"


class CallStatus(str, Enum):
    """What became of one tool call."""

    EXECUTED = "executed"
    DENIED = "denied"
    WAITING_APPROVAL = "waiting_approval"
    REJECTED = "rejected"
    INVALID = "invalid"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    LIMITED = "limited"


class Violation(str, Enum):
    """What an agent tried, or did, that it should not have.

    UNTRUSTED_TARGET: a denied call with an argument out of third parties' text (an injection that
    was stopped). DENIED_CALL: any other denied call. INVALID_CALL: a tool or arguments that do not
    exist. PRIVACY_BLOCKED: data that must not pass was held back. IN_DOUBT: a call that may have
    had its effect, and nobody knows.
    """

    UNTRUSTED_TARGET = "untrusted_target"
    DENIED_CALL = "denied_call"
    INVALID_CALL = "invalid_call"
    PRIVACY_BLOCKED = "privacy_blocked"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True)
class Usage:
    """Tokens and money one turn took; `cost_usd` is 0 for local models."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class ToolCallRecord:
    """One tool call of a turn as the gateway saw it.

    Attributes:
        decision: Value of `DecisionValue`, or "" when the call failed its contract first.
        output: The tool's output (JSON value), None unless executed.
        error: Why it did not run, None if it did.
        seconds: Time spent in the tool itself.
        edited: Arguments a reviewer put instead of the model's; None for one that was removed.
        retry_after_seconds: When a refused call may be tried again, None if that is not known.
    """

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    status: CallStatus
    decision: str = ""
    policy_ids: tuple[str, ...] = ()
    output: Any = None
    error: str | None = None
    seconds: float = 0.0
    edited: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class PendingApproval:
    """A call that waits for a human."""

    approval_id: str
    tool: str
    arguments: Mapping[str, Any]
    role: str
    reason: str
    expires_at: datetime


@dataclass(frozen=True)
class AgentRequest:
    """One user turn.

    Attributes:
        text: What the user says now; empty only when `resume` is set.
        session_id: Conversation to continue or to start; None makes a new one.
        actor: Who asks.
        resume: Continue a paused session: answers to its approvals are read from the store.
        event_time: When the turn happened, if not now (replay of recorded traffic).
    """

    text: str
    session_id: str | None = None
    actor: Actor = ANONYMOUS
    resume: bool = False
    event_time: datetime | None = None


@dataclass(frozen=True)
class AgentReply:
    """One agent turn.

    Attributes:
        text: The answer shown to the user.
        intent: The planner's top intent, None if the model gives none.
        confidence: The planner's probability of `intent` in [0, 1], None likewise.
        calls: Tool calls of this turn in order.
        approvals: Calls that wait for a human; not empty exactly when waiting_approval.
        retrieved: Ids of knowledge chunks the answer drew on.
        retry_after_seconds: A limit stopped a part of it: when to try again, None if none did.
    """

    text: str
    outcome: Outcome
    session_id: str
    agent: str
    agent_digest: str
    calls: tuple[ToolCallRecord, ...] = ()
    approvals: tuple[PendingApproval, ...] = ()
    intent: str | None = None
    confidence: float | None = None
    usage: Usage = field(default_factory=Usage)
    retrieved: tuple[str, ...] = ()
    trace_id: str | None = None
    seconds: float = 0.0
    retry_after_seconds: float | None = None
