"""The tool gateway: the only way from a graph to a tool.

Each call goes through these steps in this order, and any "no" ends it without an effect:

1. **turn**: the call belongs to a running turn, within its budget of calls.
2. **contract**: the tool exists and is usable, the arguments fit its input schema.
3. **policy**: the engine decides on the facts the host keeps; the decision is audited before
   anything else happens.
4. **approval**: a call that needs one waits (the graph pauses, nothing stays in memory); what
   counts on resume is the answer in the store, never what the caller sent, and only for the same
   tool, arguments, agent, policies and session. An approved call is decided again.
5. **ledger**: a write is claimed under the call's key before it starts; a finished one is replayed,
   one whose outcome is unknown is not repeated unless the tool is idempotent.
6. **tool**: with its time limit; reads and idempotent writes are retried as the contract says.
7. **contract** again, for the output, which names the tool as the side that is wrong.
8. **audit** of the outcome.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.context import ToolContext
from mlflow_agent_plugin.core.messages import seen_texts, tool_message
from mlflow_agent_plugin.core.provenance import LabelledText, derive_provenance
from mlflow_agent_plugin.core.tool_runner import (
    OutcomeUnknownError,
    ToolFailedError,
    ToolFunction,
    ToolRunner,
)
from mlflow_agent_plugin.core.tracing import Tracer, mask_value
from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
from mlflow_agent_plugin.entities import (
    CallStatus,
    Clock,
    Decision,
    DecisionValue,
    Effect,
    PendingApproval,
    PolicyRequest,
    Provenance,
    ToolCall,
    ToolCallRecord,
    canonical_json,
    sha256_digest,
    sha256_of_json,
)
from mlflow_agent_plugin.errors import ToolCallError, UngovernedToolCallError
from mlflow_agent_plugin.trust import ApprovalState, AuditKind, ClaimStatus

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.package import ToolContract
    from mlflow_agent_plugin.trust import (
        Approval,
        ApprovalQueue,
        AuditLog,
        EffectLedger,
        PolicyEngine,
    )

MAX_ARGUMENT_BYTES = 256 * 1024
"""Largest canonical JSON of one call's arguments."""


@dataclass(frozen=True)
class Governance:
    """The parts of the Trust room a gateway asks."""

    policies: PolicyEngine
    approvals: ApprovalQueue
    ledger: EffectLedger
    audit: AuditLog


class _Refusal(Exception):  # noqa: N818 - control flow inside this module, never seen outside
    """A call that ends here, with what the model and the records are told."""

    def __init__(self, status: CallStatus, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


class ToolGateway:
    """Takes tool calls of one agent through contract, policy, approval, ledger and audit.

    Args:
        agent: Agent name.
        agent_digest: Digest of the bundle whose tools these are.
        contracts: Contract of every usable tool.
        functions: Python function of every usable tool.
        governance: Policy engine, approval queue, ledger and audit.
        resources: Handed to every tool.
        knowledge: Handed to every tool.
        environment: Policies see it as ``context.session.environment``.
        max_calls: Tool calls one turn may begin.
        approval_ttl_seconds: How long an approval may wait.
        extend_lease: Called with (turn, seconds) before a tool runs that may take that long.
    """

    def __init__(
        self,
        *,
        agent: str,
        agent_digest: str,
        contracts: Mapping[str, ToolContract],
        functions: Mapping[str, ToolFunction],
        governance: Governance,
        resources: Any,
        knowledge: KnowledgeIndex | None,
        environment: str,
        max_calls: int,
        approval_ttl_seconds: int,
        extend_lease: Callable[[Turn, float], None],
        clock: Clock,
        tracer: Tracer,
    ) -> None:
        from jsonschema import Draft202012Validator

        self._agent = agent
        self._agent_digest = agent_digest
        self._contracts = contracts
        self._trust = governance
        self._resources = resources
        self._knowledge = knowledge
        self._environment = environment
        self._max_calls = max_calls
        self._approval_ttl_seconds = approval_ttl_seconds
        self._extend_lease = extend_lease
        self._clock = clock
        self._tracer = tracer
        self._inputs = {n: Draft202012Validator(c.input) for n, c in contracts.items()}
        self._outputs = {n: Draft202012Validator(c.output) for n, c in contracts.items()}
        self._runner = ToolRunner(functions)

    def close(self) -> None:
        """Stop accepting calls; tools that still run are not waited for."""
        self._runner.close()

    def govern(self, request: ToolCallRequest) -> ToolMessage:
        """Take one call of a graph through all steps and return what the model is told.

        Raises:
            UngovernedToolCallError: The call does not belong to a running turn.
            GraphInterrupt: The call waits for a human (LangGraph pauses the graph on it).
        """
        turn = CURRENT_TURN.get()
        if turn is None:
            raise UngovernedToolCallError(
                "a tool call reached the gateway outside a running turn",
                hint="Call tools only from the graph's own tool node or agent middleware.",
            )
        name = str(request.tool_call["name"])
        call = ToolCall(
            call_id=str(request.tool_call.get("id") or ""),
            tool=name,
            arguments=request.tool_call.get("args") or {},
            session_id=turn.session_id,
        )
        with self._tracer.span(f"tool {name}", "TOOL", {"arguments": call.arguments}) as span:
            record, label = self._run(call, turn, seen_texts(request.state))
            span.set_attribute("agent.decision", record.decision)
            span.set_attribute("agent.policy_ids", list(record.policy_ids))
            span.set_attribute("agent.status", record.status.value)
            span.set_outputs(mask_value(record.output) if record.error is None else record.error)
        turn.record(record)
        return tool_message(record, label)

    # --- the steps -------------------------------------------------------------------------------

    def _run(
        self, call: ToolCall, turn: Turn, seen: Sequence[LabelledText] | None
    ) -> tuple[ToolCallRecord, Provenance]:
        decision: Decision | None = None
        seconds = 0.0
        label = Provenance.TRUSTED
        try:
            contract = self._check_call(call, turn)
            if contract.untrusted_output:
                label = Provenance.UNTRUSTED
            decision = self._decide(call, turn, seen)
            _refuse_denied(decision)
            approval: Approval | None = None
            if decision.value is DecisionValue.NEEDS_APPROVAL:
                approval = self._wait_for_approval(call, turn, decision)
                decision = self._decide(call, turn, seen, approval=approval)
                _refuse_denied(decision, approval)
            started = time.perf_counter()
            if contract.effect is Effect.READ:
                output = self._read(call, turn, contract)
            else:
                output = self._write(call, turn, contract, approval)
            seconds = time.perf_counter() - started
            self._check_output(call, output)
            record = self._finished(call, decision, output=output, seconds=seconds)
        except _Refusal as refusal:
            record = self._finished(call, decision, refusal=refusal)
        self._trust.audit.append(
            AuditKind.TOOL_CALL_FINISHED,
            **self._facts(call, turn),
            status=record.status.value,
            error=record.error,
            output_digest=None if record.error else sha256_digest(canonical_json(record.output)),
            seconds=round(seconds, 6),
        )
        return record, label

    def _check_call(self, call: ToolCall, turn: Turn) -> ToolContract:
        if turn.count_call() > self._max_calls:
            raise _Refusal(
                CallStatus.INVALID,
                "budget",
                f"this turn has used its {self._max_calls} tool calls",
            )
        contract = self._contracts.get(call.tool)
        if contract is None:
            known = ", ".join(sorted(self._contracts)) or "none"
            raise _Refusal(
                CallStatus.INVALID, "invalid", f"there is no tool {call.tool!r}; tools: {known}"
            )
        if not call.call_id:
            raise _Refusal(CallStatus.INVALID, "invalid", "the call carries no id")
        try:
            size = len(canonical_json(dict(call.arguments)))
            problem = _first_problem(self._inputs[call.tool], dict(call.arguments))
        except (ValueError, TypeError, RecursionError) as error:
            raise _Refusal(
                CallStatus.INVALID, "invalid", f"the arguments are not plain JSON: {error}"
            ) from error
        if size > MAX_ARGUMENT_BYTES:
            raise _Refusal(
                CallStatus.INVALID,
                "invalid",
                f"the arguments take {size} bytes; at most {MAX_ARGUMENT_BYTES} are accepted",
            )
        if problem is not None:
            raise _Refusal(
                CallStatus.INVALID,
                "invalid",
                f"the call does not fit the input contract of {call.tool!r}: {problem}",
            )
        return contract

    def _decide(
        self,
        call: ToolCall,
        turn: Turn,
        seen: Sequence[LabelledText] | None,
        *,
        approval: Approval | None = None,
    ) -> Decision:
        # Without the session's messages nothing is known about origins: assume the worst.
        untrusted = seen is None or any(label is Provenance.UNTRUSTED for label, _ in seen)
        request = PolicyRequest(
            actor=turn.actor,
            agent=self._agent,
            tool=call.tool,
            arguments=call.arguments,
            session={
                "environment": self._environment,
                "calls": turn.started,
                "turn": turn.number,
                "untrusted_seen": untrusted,
                "now": int(self._clock().timestamp()),
            },
            provenance=(
                dict.fromkeys(call.arguments, Provenance.UNTRUSTED.value)
                if seen is None
                else derive_provenance(call.arguments, seen)
            ),
        )
        decision = self._trust.policies.decide(request)
        self._trust.audit.append(
            AuditKind.TOOL_CALL_DECIDED,
            **self._facts(call, turn),
            decision=decision.to_dict(),
            provenance=dict(request.provenance),
            session=dict(request.session),
            approval_id=None if approval is None else approval.approval_id,
        )
        return decision

    def _wait_for_approval(self, call: ToolCall, turn: Turn, decision: Decision) -> Approval:
        from langgraph.types import interrupt

        queue = self._trust.approvals
        digest = self._action_digest(call)
        approval = queue.find(call.session_id, call.call_id, action_digest=digest)
        if approval is None:
            approval = queue.request(
                call,
                agent=self._agent,
                agent_digest=self._agent_digest,
                policy_digest=self._trust.policies.digest,
                actor=turn.actor,
                role=decision.approver_role or "",
                reason=decision.reason,
                ttl_seconds=self._approval_ttl_seconds,
            )
        while approval.state is ApprovalState.WAITING:
            turn.approvals[call.call_id] = PendingApproval(
                approval_id=approval.approval_id,
                tool=call.tool,
                arguments=dict(call.arguments),
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
            # Pauses the graph here, or returns when resumed; only the store says what was answered.
            interrupt({"approval_id": approval.approval_id})
            approval = queue.get(approval.approval_id)
        turn.approvals.pop(call.call_id, None)
        if approval.action_digest != digest:
            raise _Refusal(
                CallStatus.DENIED, "denied", "the approval was given for another action or agent"
            )
        if approval.state is ApprovalState.REJECTED:
            raise _Refusal(
                CallStatus.REJECTED,
                "rejected",
                f"a reviewer said no: {approval.answer_reason or 'no reason given'}",
            )
        if approval.state not in (ApprovalState.APPROVED, ApprovalState.EXECUTED):
            raise _Refusal(CallStatus.REJECTED, "expired", "nobody answered in time")
        return approval

    def _read(self, call: ToolCall, turn: Turn, contract: ToolContract) -> dict[str, Any]:
        try:
            return self._runner.run(
                contract, self._tool_context(call, turn, contract), call.arguments
            )
        except ToolFailedError as error:
            raise _Refusal(CallStatus.FAILED, "failed", f"{call.tool!r} failed: {error}") from error

    def _write(
        self, call: ToolCall, turn: Turn, contract: ToolContract, approval: Approval | None
    ) -> dict[str, Any]:
        key = f"{call.session_id}:{call.call_id}"
        replayed = self._claim(key, call, turn, contract, approval)
        if replayed is not None:
            return replayed
        ledger, context = self._trust.ledger, self._tool_context(call, turn, contract)
        try:
            output = self._runner.run(contract, context, call.arguments)
        except OutcomeUnknownError as error:
            raise _in_doubt(call, f" ({error})") from error
        except ToolFailedError as error:
            message = f"{call.tool!r} failed: {error}"
            ledger.fail(key, message)
            raise _Refusal(CallStatus.FAILED, "failed", message) from error
        ledger.finish(key, output)
        return output

    def _claim(
        self,
        key: str,
        call: ToolCall,
        turn: Turn,
        contract: ToolContract,
        approval: Approval | None,
    ) -> dict[str, Any] | None:
        """Claim the write and record that it starts; return the earlier result if it ran before."""
        ledger = self._trust.ledger
        with self._trust.audit.transaction() as transaction:
            try:
                claim = ledger.claim(
                    key,
                    tool=call.tool,
                    arguments_digest=sha256_of_json(dict(call.arguments)),
                    owner=turn.owner,
                    connection=transaction.connection,
                )
            except ToolCallError as error:
                raise _Refusal(CallStatus.INVALID, "invalid", str(error)) from error
            if claim.status is ClaimStatus.DONE:
                if claim.error is not None:
                    raise _Refusal(CallStatus.FAILED, "failed", claim.error)
                return dict(claim.result)
            if claim.status is ClaimStatus.IN_DOUBT:
                if not contract.idempotent:
                    raise _in_doubt(call)
                ledger.take_over(
                    key, owner=turn.owner, previous=claim, connection=transaction.connection
                )
            elif approval is not None:
                self._trust.approvals.mark_executed(
                    approval.approval_id,
                    action_digest=self._action_digest(call),
                    transaction=transaction,
                )
            transaction.append(
                AuditKind.TOOL_CALL_STARTED,
                **self._facts(call, turn),
                effect=contract.effect.value,
                approval_id=None if approval is None else approval.approval_id,
                again=claim.status is ClaimStatus.IN_DOUBT,
            )
        return None

    def _tool_context(self, call: ToolCall, turn: Turn, contract: ToolContract) -> ToolContext:
        self._extend_lease(turn, contract.timeout_seconds * contract.retry.attempts + 30)
        return ToolContext(
            actor=turn.actor,
            session_id=call.session_id,
            idempotency_key=f"{call.session_id}:{call.call_id}",
            resources=self._resources,
            knowledge=self._knowledge,
            now=self._clock(),
        )

    def _check_output(self, call: ToolCall, output: Mapping[str, Any]) -> None:
        problem = _first_problem(self._outputs[call.tool], dict(output))
        if problem is not None:
            raise _Refusal(
                CallStatus.FAILED,
                "failed",
                f"the output of {call.tool!r} breaks the tool's own contract: {problem}",
            )

    def _action_digest(self, call: ToolCall) -> str:
        return call.action_digest(
            agent_digest=self._agent_digest, policy_digest=self._trust.policies.digest
        )

    # --- records ---------------------------------------------------------------------------------

    def _facts(self, call: ToolCall, turn: Turn) -> dict[str, Any]:
        return {
            "request_id": turn.request_id,
            "session_id": turn.session_id,
            "actor": turn.actor,
            "agent": self._agent,
            "agent_digest": self._agent_digest,
            "call_id": call.call_id,
            "tool": call.tool[:256],
            "arguments": _auditable(call.arguments),
        }

    def _finished(
        self,
        call: ToolCall,
        decision: Decision | None,
        *,
        output: Any = None,
        refusal: _Refusal | None = None,
        seconds: float = 0.0,
    ) -> ToolCallRecord:
        return ToolCallRecord(
            call_id=call.call_id,
            tool=call.tool,
            arguments=dict(call.arguments),
            status=CallStatus.EXECUTED if refusal is None else refusal.status,
            decision="" if decision is None else decision.value.value,
            policy_ids=() if decision is None else decision.policy_ids,
            output=output,
            error=None if refusal is None else f"{refusal.kind}: {refusal.message}",
            seconds=seconds,
        )


def _first_problem(validator: Any, value: Any) -> str | None:
    from jsonschema.exceptions import best_match

    error = best_match(validator.iter_errors(value))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message[:300]}" if where else str(error.message)[:300]


def _refuse_denied(decision: Decision, approval: Approval | None = None) -> None:
    if decision.value is DecisionValue.DENY:
        raise _Refusal(CallStatus.DENIED, "denied", decision.reason or "no policy permits it")
    # The answer in hand is for exactly this call; another role means that the rules changed.
    needs = decision.approver_role if decision.value is DecisionValue.NEEDS_APPROVAL else None
    if approval is not None and needs not in (None, approval.role):
        raise _Refusal(
            CallStatus.DENIED, "denied", "the rules changed after the approval was given"
        )


def _in_doubt(call: ToolCall, why: str = "") -> _Refusal:
    return _Refusal(
        CallStatus.IN_DOUBT,
        "in_doubt",
        f"it is unknown whether {call.tool!r} took effect{why}; a human has to look",
    )


def _auditable(arguments: Mapping[str, Any]) -> Any:
    try:
        text = canonical_json(dict(arguments))
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": True}
    if len(text) > 8192:
        return {"digest": sha256_digest(text), "bytes": len(text)}
    return mask_value(json.loads(text))
