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

A tool that raises says that nothing happened. For a write that is not idempotent, a time-out or a
broken connection says nothing of the sort: the call stays in doubt until a human looks.
"""

from __future__ import annotations

import contextvars
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.context import ToolContext
from mlflow_agent_plugin.core.provenance import LabelledText, derive_provenance
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
)
from mlflow_agent_plugin.errors import UngovernedToolCallError
from mlflow_agent_plugin.trust import ApprovalState, AuditKind

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

LABEL_KEY = "mlflow_agents"
"""Key in a tool message's `additional_kwargs` under which the gateway keeps its own label."""

ToolFunction = Callable[..., Any]


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
        self._functions = functions
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
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="tool")

    def close(self) -> None:
        """Stop accepting calls; tools that still run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        return _message(record, label)

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
            approval: Approval | None = None
            if decision.value is DecisionValue.NEEDS_APPROVAL:
                approval = self._wait_for_approval(call, turn, decision)
                decision = self._decide(call, turn, seen, approval=approval)
            started = time.perf_counter()
            output = self._execute(call, turn, contract, approval)
            seconds = time.perf_counter() - started
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
        if decision.value is DecisionValue.DENY:
            raise _Refusal(CallStatus.DENIED, "denied", decision.reason or "no policy permits it")
        if approval is not None and decision.value is DecisionValue.NEEDS_APPROVAL:
            # The answer in hand is for exactly this call; another role means the rules changed.
            if decision.approver_role != approval.role:
                raise _Refusal(
                    CallStatus.DENIED, "denied", "the rules changed after the approval was given"
                )
        return decision

    def _wait_for_approval(self, call: ToolCall, turn: Turn, decision: Decision) -> Approval:
        from langgraph.types import interrupt

        queue = self._trust.approvals
        digest = call.action_digest(
            agent_digest=self._agent_digest, policy_digest=self._trust.policies.digest
        )
        approval = queue.find(call.session_id, call.call_id)
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
            self._trust.audit.append(
                AuditKind.APPROVAL_REQUESTED,
                **self._facts(call, turn),
                approval_id=approval.approval_id,
                role=approval.role,
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

    def _execute(
        self, call: ToolCall, turn: Turn, contract: ToolContract, approval: Approval | None
    ) -> dict[str, Any]:
        key = f"{call.session_id}:{call.call_id}"
        arguments_digest = sha256_digest(
            canonical_json({"tool": call.tool, "arguments": dict(call.arguments)})
        )
        writes = contract.effect is not Effect.READ
        if writes:
            claim = self._trust.ledger.claim(
                key, tool=call.tool, arguments_digest=arguments_digest, owner=turn.owner
            )
            if claim.status == "done":
                return dict(claim.result or {})
            if claim.status == "failed":
                raise _Refusal(CallStatus.FAILED, "failed", claim.error or "the tool failed")
            if claim.status == "in_doubt" and not contract.idempotent:
                raise _Refusal(
                    CallStatus.IN_DOUBT,
                    "in_doubt",
                    f"it is unknown whether {call.tool!r} took effect; a human has to look",
                )
            self._trust.audit.append(
                AuditKind.TOOL_CALL_STARTED,
                **self._facts(call, turn),
                effect=contract.effect.value,
                approval_id=None if approval is None else approval.approval_id,
                again=claim.status == "in_doubt",
            )
        context = ToolContext(
            actor=turn.actor,
            session_id=call.session_id,
            idempotency_key=key,
            resources=self._resources,
            knowledge=self._knowledge,
            now=self._clock(),
        )
        self._extend_lease(turn, contract.timeout_seconds * contract.retry.attempts + 30)
        try:
            output = self._call_function(call, contract, context)
        except _Refusal as refusal:
            if writes and refusal.status is not CallStatus.IN_DOUBT:
                self._trust.ledger.fail(key, refusal.message)
            raise
        if writes:
            self._trust.ledger.finish(key, output)
            if approval is not None:
                self._trust.approvals.mark_executed(approval.approval_id)
        problem = _first_problem(self._outputs[call.tool], output)
        if problem is not None:
            raise _Refusal(
                CallStatus.FAILED,
                "failed",
                f"the output of {call.tool!r} breaks the tool's own contract: {problem}",
            )
        return output

    def _call_function(
        self, call: ToolCall, contract: ToolContract, context: ToolContext
    ) -> dict[str, Any]:
        import tenacity

        function = self._functions[call.tool]
        may_repeat = contract.effect is Effect.READ or contract.idempotent

        def attempt() -> Any:
            future = self._threads.submit(
                contextvars.copy_context().run,
                lambda: function(context, **_copy(call.arguments)),
            )
            try:
                return future.result(timeout=contract.timeout_seconds)
            except FutureTimeoutError:
                if future.cancel() or not future.done():
                    raise TimeoutError(
                        f"no answer within {contract.timeout_seconds:g} seconds"
                    ) from None
                return future.result()

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(contract.retry.attempts if may_repeat else 1),
            wait=tenacity.wait_random_exponential(
                multiplier=contract.retry.wait_seconds, max=30
            ),
            reraise=True,
        )
        try:
            output = retrying(attempt)
        except (TimeoutError, OSError) as error:
            if may_repeat:
                raise _failed(call, error) from error
            raise _Refusal(
                CallStatus.IN_DOUBT,
                "in_doubt",
                f"it is unknown whether {call.tool!r} took effect ({_short(error)}); "
                "a human has to look",
            ) from error
        except Exception as error:
            raise _failed(call, error) from error
        try:
            plain = json.loads(canonical_json(output))
        except (ValueError, TypeError, RecursionError):
            plain = None
        if not isinstance(plain, dict):
            # The function ran to its end, so for a write the effect is there: say so in the result.
            plain = {"unusable_output": type(output).__name__}
        return plain

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


def seen_texts(state: Any) -> list[LabelledText] | None:
    """Return every text of a graph's messages with its label, None if there are no messages."""
    from langchain_core.messages import HumanMessage, ToolMessage

    messages = state.get("messages") if isinstance(state, Mapping) else None
    if messages is None:
        messages = getattr(state, "messages", None)
    if messages is None and isinstance(state, list):
        messages = state
    if messages is None:
        return None
    seen: list[LabelledText] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            seen.append((Provenance.USER, message.text))
        elif isinstance(message, ToolMessage):
            label = message.additional_kwargs.get(LABEL_KEY, {}).get("label")
            trusted = label == Provenance.TRUSTED.value
            seen.append(
                (Provenance.TRUSTED if trusted else Provenance.UNTRUSTED, str(message.content))
            )
    return seen


def _message(record: ToolCallRecord, label: Provenance) -> ToolMessage:
    from langchain_core.messages import ToolMessage

    if record.error is None:
        content = json.dumps(record.output, ensure_ascii=False)
    else:
        kind, _, message = record.error.partition(": ")
        content = json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False)
    return ToolMessage(
        content=content,
        name=record.tool,
        tool_call_id=record.call_id,
        status="success" if record.error is None else "error",
        additional_kwargs={LABEL_KEY: {"label": label.value, "status": record.status.value}},
    )


def _first_problem(validator: Any, value: Any) -> str | None:
    from jsonschema.exceptions import best_match

    error = best_match(validator.iter_errors(value))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message[:300]}" if where else str(error.message)[:300]


def _failed(call: ToolCall, error: Exception) -> _Refusal:
    return _Refusal(CallStatus.FAILED, "failed", f"{call.tool!r} failed: {_short(error)}")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _copy(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # The function gets its own copy: what was decided and audited must not change under its hands.
    return dict(json.loads(canonical_json(dict(arguments))))


def _auditable(arguments: Mapping[str, Any]) -> Any:
    try:
        text = canonical_json(dict(arguments))
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": True}
    if len(text) > 8192:
        return {"digest": sha256_digest(text), "bytes": len(text)}
    return mask_value(json.loads(text))
