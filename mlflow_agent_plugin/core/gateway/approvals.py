"""Waits for the human's answer to one exact call.

Rules:
- Waiting pauses the graph; nothing stays in memory, and any process may go on.
- The answer in the store counts, never what the caller sent, and only for this very action.
- A reviewer's edit is an approval of another action: the gateway checks and decides the edited call
  like any call before it runs. Only arguments can be edited, never the tool.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import (
    CallStatus,
    Decision,
    PendingApproval,
    ToolCall,
    ToolCallRecord,
)
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.trust import ApprovalState, CallRefusedError

if TYPE_CHECKING:
    from mlflow_agent_plugin.core.gateway.journal import CallJournal
    from mlflow_agent_plugin.core.turn import Turn
    from mlflow_agent_plugin.trust import Approval, ApprovalQueue, GovernedCall


class ApprovalDesk:
    """Asks for approvals and takes the answers.

    Args:
        queue: Where calls wait.
        policy_digest: Approvals are bound to it.
        ttl_seconds: How long an approval may wait.
    """

    def __init__(self, queue: ApprovalQueue, *, policy_digest: str, ttl_seconds: int) -> None:
        self._queue = queue
        self._policy_digest = policy_digest
        self._ttl_seconds = ttl_seconds

    def action_digest(self, governed: GovernedCall) -> str:
        """Return the digest an approval of this call is bound to."""
        return governed.call.action_digest(
            agent_digest=governed.agent_digest, policy_digest=self._policy_digest
        )

    def wait(
        self, governed: GovernedCall, turn: Turn, journal: CallJournal
    ) -> tuple[Approval, GovernedCall]:
        """Return the approval of this call once humans gave it, and the call they approved.

        That is the call itself, or with the arguments a reviewer put instead; those have been
        through neither contract nor policies.

        Raises:
            CallRefusedError: It was rejected or expired, or is about something else.
            GraphInterrupt: Nobody has answered yet.
        """
        from langgraph.types import interrupt

        decision = journal.decision
        assert decision is not None
        call, queue = governed.call, self._queue
        digest = self.action_digest(governed)
        approval = queue.find(call.session_id, call.call_id, action_digest=digest)
        if approval is None:
            approval = self._ask(governed, decision, journal)
        while True:
            if approval.state is ApprovalState.EDITED:
                approval = queue.get(approval.replaced_by or "")
            elif approval.state is ApprovalState.WAITING:
                _note_waiting(call, turn, decision, approval)
                journal.record_decisions()
                # Pauses the graph here, or returns when resumed; only the store says what was
                # answered.
                interrupt({"approval_id": approval.approval_id})
                approval = queue.get(approval.approval_id)
            else:
                break
        turn.approvals.pop(call.call_id, None)
        if approval.edited_from is not None:
            governed = replace(governed, call=replace(call, arguments=dict(approval.arguments)))
        _refuse_unless_approved(approval, self.action_digest(governed))
        return approval, governed

    def _ask(self, governed: GovernedCall, decision: Decision, journal: CallJournal) -> Approval:
        try:
            with journal.transaction() as transaction:
                return self._queue.request(
                    governed.call,
                    agent=governed.agent,
                    agent_digest=governed.agent_digest,
                    policy_digest=self._policy_digest,
                    actor=governed.actor,
                    role=decision.approver_role or "",
                    reason=decision.reason,
                    ttl_seconds=self._ttl_seconds,
                    quorum=decision.quorum,
                    request_id=governed.request_id,
                    transaction=transaction,
                )
        except ApprovalError as error:
            raise CallRefusedError(CallStatus.DENIED, "denied", str(error)) from error


def _note_waiting(call: ToolCall, turn: Turn, decision: Decision, approval: Approval) -> None:
    turn.approvals[call.call_id] = PendingApproval(
        approval_id=approval.approval_id,
        tool=call.tool,
        arguments=dict(approval.arguments),
        role=approval.role,
        reason=approval.reason,
        expires_at=approval.expires_at,
    )
    turn.record(
        ToolCallRecord(
            call_id=call.call_id,
            tool=call.tool,
            arguments=dict(call.arguments),
            status=CallStatus.WAITING_APPROVAL,
            decision=decision.value.value,
            policy_ids=decision.policy_ids,
        )
    )


def _refuse_unless_approved(approval: Approval, digest: str) -> None:
    if approval.action_digest != digest:
        raise CallRefusedError(
            CallStatus.DENIED, "denied", "the approval was given for another action or agent"
        )
    if approval.state is ApprovalState.REJECTED:
        raise CallRefusedError(
            CallStatus.REJECTED,
            "rejected",
            f"a reviewer said no: {approval.answer_reason or 'no reason given'}",
        )
    if approval.state not in (ApprovalState.APPROVED, ApprovalState.EXECUTED):
        raise CallRefusedError(CallStatus.REJECTED, "expired", "nobody answered in time")
