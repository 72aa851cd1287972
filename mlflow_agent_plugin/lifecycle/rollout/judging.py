"""What one turn says about the version that took it. No I/O.

Rules:
- A conversation counts once, by its first turn that came to an end: a question back or a call that
  waits for a person is no end.
- Success is what the traffic itself can tell: answered, or acted. A refusal and an escalation are
  none.
- An error is a failure of the agent. A wrong request, a used-up quota, a stopped tenant or a busy
  session says nothing about the version.
- An incident is a call past the gateway, content that is not what its digest says, or an
  irreversible call nobody knows the outcome of. People and monitors report others.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_agent_plugin.entities import AgentReply, CallStatus, Outcome
from mlflow_agent_plugin.errors import (
    AgentError,
    AgentRunError,
    BundleError,
    IntegrityError,
    UngovernedToolCallError,
)

_NO_END = (Outcome.CLARIFIED, Outcome.WAITING_APPROVAL)
_SUCCESS = (Outcome.ANSWERED, Outcome.ACTED)
_OWN_FAULT = (AgentRunError, BundleError, IntegrityError, UngovernedToolCallError)


@dataclass(frozen=True)
class TurnVerdict:
    """What one turn says.

    Attributes:
        ended: The conversation came to an end it can be counted by.
        incidents: Kinds of safety incidents in it.
    """

    ended: bool
    success: bool = False
    error: bool = False
    incidents: tuple[str, ...] = ()


def judge_reply(reply: AgentReply) -> TurnVerdict:
    """Return what a reply says."""
    incidents = tuple(
        f"{call.tool}: outcome unknown"
        for call in reply.calls
        if call.status is CallStatus.IN_DOUBT
    )
    if reply.outcome in _NO_END:
        return TurnVerdict(ended=False, incidents=incidents)
    return TurnVerdict(
        ended=True,
        success=reply.outcome in _SUCCESS,
        error=reply.outcome is Outcome.FAILED,
        incidents=incidents,
    )


def judge_error(error: BaseException) -> TurnVerdict:
    """Return what a turn that raised says."""
    if not isinstance(error, Exception):
        return TurnVerdict(ended=False)
    if isinstance(error, AgentError) and not isinstance(error, _OWN_FAULT):
        return TurnVerdict(ended=False)
    incidents: tuple[str, ...] = ()
    if isinstance(error, UngovernedToolCallError):
        incidents = ("a tool was called past the gateway",)
    elif isinstance(error, IntegrityError):
        incidents = ("content is not what its digest says",)
    return TurnVerdict(ended=True, error=True, incidents=incidents)
