"""Takes each call through the steps `core.gateway` lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_agent_plugin.core.gateway.approvals import ApprovalDesk
from mlflow_agent_plugin.core.gateway.contracts import ContractChecks
from mlflow_agent_plugin.core.gateway.edits import as_edited, put_by_reviewer
from mlflow_agent_plugin.core.gateway.effects import EffectRunner, ExtendLease
from mlflow_agent_plugin.core.gateway.journal import CallJournal
from mlflow_agent_plugin.core.gateway.refusals import refuse_if_it_breaks
from mlflow_agent_plugin.core.messages import seen_texts, tool_message
from mlflow_agent_plugin.core.provenance import derive_provenance
from mlflow_agent_plugin.core.tool_runner import ToolFunction, ToolRunner
from mlflow_agent_plugin.core.tracing import Span, Tracer
from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
from mlflow_agent_plugin.entities import (
    CallStatus,
    Clock,
    Decision,
    DecisionValue,
    PolicyRequest,
    Provenance,
    ToolCall,
    ToolCallRecord,
)
from mlflow_agent_plugin.errors import UngovernedToolCallError
from mlflow_agent_plugin.trust import CallRefusedError, GovernedCall

if TYPE_CHECKING:
    from types import TracebackType

    from langchain_core.messages import ToolMessage
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from mlflow_agent_plugin.core.gateway.governance import Governance
    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.package import ToolContract
    from mlflow_agent_plugin.trust import Approval

_logger = logging.getLogger(__name__)

_Leave = Callable[
    ["type[BaseException] | None", "BaseException | None", "TracebackType | None"], None
]


_UNGUARDED = nullcontext()


class _Origins(NamedTuple):
    """What the session's texts say about one call."""

    of_arguments: Mapping[str, str]
    untrusted_seen: bool


class ToolGateway:
    """Takes tool calls of one agent through contract, policy, approval, ledger and audit.

    Args:
        agent: Agent name.
        agent_digest: Digest of the bundle whose tools these are.
        contracts: Contract of every usable tool.
        functions: Python function of every usable tool.
        governance: The parts of the Trust room that have a say.
        resources: Handed to every tool.
        knowledge: Handed to every tool.
        environment: Policies see it as ``context.session.environment``.
        max_calls: Tool calls one turn may begin.
        approval_ttl_seconds: How long an approval may wait.
        extend_lease: Called in the transaction before a tool runs; see `ExtendLease`.
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
        extend_lease: ExtendLease,
        clock: Clock,
        tracer: Tracer,
    ) -> None:
        self._agent = agent
        self._agent_digest = agent_digest
        self._trust = governance
        self._environment = environment
        self._max_calls = max_calls
        self._clock = clock
        self._tracer = tracer
        self._contracts = ContractChecks(contracts)
        self._runner = ToolRunner(functions)
        self._desk = ApprovalDesk(
            governance.approvals,
            policy_digest=governance.policies.digest,
            ttl_seconds=approval_ttl_seconds,
        )
        self._effects = EffectRunner(
            governance,
            self._contracts,
            self._runner,
            resources=resources,
            knowledge=knowledge,
            extend_lease=extend_lease,
            clock=clock,
        )

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
            span.set_attribute("agent.call_id", call.call_id)
            record, message = self._run(call, turn, request.state)
            if self._tracer.measuring:
                self._describe(span, record)
        turn.record(record)
        turn.tell(message)
        return message

    def _run(self, call: ToolCall, turn: Turn, state: Any) -> tuple[ToolCallRecord, ToolMessage]:
        journal = CallJournal(
            self._trust, call, turn, agent=self._agent, agent_digest=self._agent_digest
        )
        contract: ToolContract | None = None
        origins: _Origins | None = None
        try:
            asked, canonical = self._accept(call, turn, journal)
            contract = asked.contract
            origins = _origins(call, state, turn)
            decision = self._decide(asked, turn, journal, origins)
            if decision.value is DecisionValue.DENY:
                raise _denied(decision)
            approval, governed = None, asked
            if decision.value is DecisionValue.NEEDS_APPROVAL:
                approval, governed = self._desk.wait(asked, turn, journal)
                if governed is not asked:
                    origins, canonical = self._edit(asked, governed, turn, journal, state)
                self._decide_again(governed, turn, journal, origins, approval)
            with self._admitted(governed):
                record = self._effects.run(
                    governed,
                    turn,
                    journal,
                    canonical=canonical,
                    approval=approval,
                    action_digest="" if approval is None else self._desk.action_digest(governed),
                )
        except CallRefusedError as refusal:
            record = journal.ended(refusal=refusal)
        return record, tool_message(
            record, contract=contract, origins=None if origins is None else origins.of_arguments
        )

    def _accept(
        self, call: ToolCall, turn: Turn, journal: CallJournal
    ) -> tuple[GovernedCall, bytes]:
        """Check budget and contract.

        Returns:
            The call with the arguments as the tool will get them, and their canonical JSON.
        """
        if turn.count_call() > self._max_calls:
            raise CallRefusedError(
                CallStatus.INVALID,
                "budget",
                f"this turn has used its {self._max_calls} tool calls",
            )
        governed = GovernedCall(
            call=call,
            contract=self._contracts.of(call),
            actor=turn.actor,
            agent=self._agent,
            agent_digest=self._agent_digest,
            request_id=turn.request_id,
        )
        with refuse_if_it_breaks("the privacy filter"):
            arguments = self._trust.privacy.arguments(governed)
        if arguments is not call.arguments:
            governed = replace(governed, call=replace(call, arguments=arguments))
        canonical = self._contracts.check_input(governed.call)
        if governed.call is call:
            journal.accepted(canonical)
        return governed, canonical

    def _edit(
        self,
        asked: GovernedCall,
        edited: GovernedCall,
        turn: Turn,
        journal: CallJournal,
        state: Any,
    ) -> tuple[_Origins, bytes]:
        """Check a reviewer's edit like any call.

        Returns:
            Where its arguments come from, and their canonical JSON.
        """
        canonical = self._contracts.check_input(edited.call)
        call, put = as_edited(journal.call, asked.call, edited.call)
        journal.edited(call, put)
        found = _origins(call, state, turn)
        origins = found._replace(of_arguments=put_by_reviewer(found.of_arguments, put))
        return origins, canonical

    def _decide_again(
        self,
        governed: GovernedCall,
        turn: Turn,
        journal: CallJournal,
        origins: _Origins,
        approval: Approval,
    ) -> None:
        """Decide an approved call at the moment it is to run."""
        decision = self._decide(governed, turn, journal, origins, approval=approval)
        if decision.value is DecisionValue.DENY:
            raise _denied(decision)
        if decision.value is DecisionValue.ALLOW:
            return
        # The answer in hand is for exactly this call. If it takes another role or more people by
        # now, the rules changed, or a reviewer edited it into something that is not his to approve.
        why = "edited call needs" if approval.edited_from else "rules changed: the call needs"
        raise CallRefusedError(
            CallStatus.DENIED,
            "denied",
            f"the {why} {decision.quorum} approval(s) by {decision.approver_role}",
        )

    def _decide(
        self,
        governed: GovernedCall,
        turn: Turn,
        journal: CallJournal,
        origins: _Origins,
        *,
        approval: Approval | None = None,
    ) -> Decision:
        request = PolicyRequest(
            actor=turn.actor,
            agent=self._agent,
            tool=governed.call.tool,
            arguments=governed.call.arguments,
            session={
                "environment": self._environment,
                "calls": turn.started,
                "turn": turn.number,
                "untrusted_seen": origins.untrusted_seen,
                "now": int(self._clock().timestamp()),
            },
            provenance=origins.of_arguments,
        )
        if approval is None:
            decision = self._trust.policies.decide(request)
        else:
            decision = self._trust.policies.decide_approved(
                request, role=approval.role, quorum=approval.quorum
            )
        journal.decided(
            decision, request, approval_id=None if approval is None else approval.approval_id
        )
        return decision

    def _describe(self, span: Span, record: ToolCallRecord) -> None:
        span.set_attribute("agent.decision", record.decision)
        span.set_attribute("agent.policy_ids", list(record.policy_ids))
        span.set_attribute("agent.status", record.status.value)
        if record.error is not None:
            span.set_attribute("agent.error", record.error.partition(":")[0])
        told = record.output if record.error is None else record.error
        span.set_outputs(self._tracer.mask(told))

    def _admitted(self, governed: GovernedCall) -> AbstractContextManager[object, bool | None]:
        """Enter every guard; the context returned leaves them when the call has ended."""
        if not self._trust.guards:
            return _UNGUARDED
        with ExitStack() as admitted:
            for guard in self._trust.guards:
                with refuse_if_it_breaks("a guard"):
                    admission = guard.admit(governed)
                    admission.__enter__()  # noqa: PLC2801 - entering and leaving fail differently
                admitted.push(_settling(admission, governed.key))
            return admitted.pop_all()


def _settling(admission: AbstractContextManager[None], key: str) -> _Leave:
    """Return what leaves a guard. The call is on record: a failure is logged, nothing more."""

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            admission.__exit__(kind, error, trace)
        except Exception as failure:
            if failure is not error:
                _logger.exception("a guard of call %s did not settle", key)

    return leave


def _origins(call: ToolCall, state: Any, turn: Turn) -> _Origins:
    # What the model saw and sent: a filter's tokens stand in both. Without the session's messages
    # nothing is known about origins: assume the worst.
    with refuse_if_it_breaks("the search for the arguments' origins"):
        seen = seen_texts(state, turn.reader, turn.told)
        if seen is None:
            worst = dict.fromkeys(call.arguments, Provenance.UNTRUSTED.value)
            return _Origins(worst, untrusted_seen=True)
        return _Origins(derive_provenance(call.arguments, seen), seen.untrusted_seen)


def _denied(decision: Decision) -> CallRefusedError:
    return CallRefusedError(CallStatus.DENIED, "denied", decision.reason or "no policy permits it")
