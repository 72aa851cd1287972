"""Opens an agent, takes its turns, closes it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.assembly import (
    ToolWrapper,
    build_graph,
    load_functions,
    load_knowledge,
    open_resources,
    parse_resource_overrides,
)
from mlflow_agent_plugin.core.checkpoints import close_checkpointer, open_checkpointer
from mlflow_agent_plugin.core.gateway import ToolGateway
from mlflow_agent_plugin.core.mcp import McpTools
from mlflow_agent_plugin.core.messages import user_message
from mlflow_agent_plugin.core.observed import (
    observe_functions,
    observe_governance,
    observe_knowledge,
)
from mlflow_agent_plugin.core.runtime.governance import build_governance
from mlflow_agent_plugin.core.runtime.private import private_deltas, screened
from mlflow_agent_plugin.core.runtime.requests import check_request
from mlflow_agent_plugin.core.runtime.steps import GraphRunner, TextDelta
from mlflow_agent_plugin.core.tracing import Tracer
from mlflow_agent_plugin.core.turn import Turn
from mlflow_agent_plugin.core.unsaved import UnsavedState, unsaved_state
from mlflow_agent_plugin.entities import (
    AgentReply,
    AgentRequest,
    Clock,
    Outcome,
    PendingApproval,
    PrivacyPlace,
    sha256_digest,
    utc_now,
)
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.observability.schema import row_from_reply
from mlflow_agent_plugin.store import SessionTable, Store
from mlflow_agent_plugin.trust import AuditKind, CedarPolicyEngine, PolicyEngine

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from sqlalchemy import Connection

    from mlflow_agent_plugin.package import Bundle

LEASE_SECONDS = 60.0
"""How long a session stays busy after its worker died; a living worker extends it."""


class AgentRuntime:
    """An opened agent. Make it with `AgentRuntime.open`; close it, or use it in a ``with``.

    Attributes:
        bundle: The agent's verified content.
        store: Runtime store: sessions, approvals, ledger, audit.
        approvals: The approval queue the agent's waiting calls are in.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        store: Store,
        owns_store: bool,
        policies: PolicyEngine,
        resources: Any,
        clock: Clock,
        checkpointer: BaseCheckpointSaver[Any],
        owns_checkpointer: bool,
        settings: Settings,
        tracer: Tracer,
        tool_wrapper: ToolWrapper | None,
        model: BaseChatModel | None,
        version: str | None,
    ) -> None:
        self.bundle = bundle
        self.store = store
        self.version = version
        self.resources = resources
        self._owns_store = owns_store
        self._owns_checkpointer = owns_checkpointer
        self._checkpointer = checkpointer
        self._clock = clock
        self._settings = settings
        self._tracer = tracer
        self._sessions = SessionTable(store, clock=clock)
        self._trust = observe_governance(
            build_governance(
                bundle, store=store, policies=policies, settings=settings, clock=clock
            ),
            tracer,
        )
        self._audit = self._trust.audit
        self.approvals = self._trust.approvals
        manifest = bundle.manifest
        privacy = self._trust.privacy
        tracer.mask = partial(privacy.recorded, PrivacyPlace.TRACE)
        self._audited = partial(privacy.recorded, PrivacyPlace.AUDIT)
        knowledge = observe_knowledge(screened(load_knowledge(bundle), privacy), tracer)
        self._mcp = McpTools(bundle)
        functions = observe_functions(
            {**load_functions(bundle, tool_wrapper), **_wrapped(self._mcp, tool_wrapper)}, tracer
        )
        self._gateway = ToolGateway(
            agent=manifest.name,
            agent_digest=bundle.digest.value,
            contracts={name: bundle.contracts[name] for name in manifest.usable_tools()},
            functions=functions,
            governance=self._trust,
            resources=resources,
            knowledge=knowledge,
            environment=settings.environment,
            max_calls=manifest.model.budgets.max_tool_calls,
            approval_ttl_seconds=settings.approval_ttl_seconds,
            extend_lease=self._extend_lease,
            clock=clock,
            tracer=tracer,
        )
        self.graph = build_graph(
            bundle,
            govern=self._gateway.govern,
            knowledge=knowledge,
            checkpointer=checkpointer,
            meter=self._trust.turns,
            model=model,
        )
        self._runner = GraphRunner(bundle, self.graph, callbacks=tracer.callbacks())

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        store: Store | None = None,
        resources: Any = None,
        clock: Clock = utc_now,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        settings: Settings | None = None,
        tracing: bool | None = None,
        tool_wrapper: ToolWrapper | None = None,
        model: BaseChatModel | None = None,
        policies: PolicyEngine | None = None,
        version: str | None = None,
    ) -> AgentRuntime:
        """Open `bundle`, ready for turns.

        Args:
            bundle: A loaded bundle whose digest has been checked.
            store: Runtime store; default: the one the settings name.
            resources: What tools get as ``context.resources``; default: what the manifest's
                factory opens.
            clock: Source of time.
            checkpointer: Session state; default: in the store's database.
            settings: Settings; default: from the environment.
            tracing: Write MLflow traces; default: as the settings say.
            tool_wrapper: Wraps each tool function (faults in evaluation).
            model: Plans in place of the manifest's model (a compromised one in evaluation).
            policies: Policy engine; default: Cedar over the bundle's policies.
            version: Registered version being served, for the records.

        Raises:
            BundleError: A part of the bundle does not load.
            StoreError: The runtime store cannot be opened.
        """
        settings = settings or Settings.from_env()
        policies = policies or CedarPolicyEngine.from_bundle(bundle)
        if resources is None:
            resources = open_resources(bundle, parse_resource_overrides(settings.resources))
        with ExitStack() as undo:  # what is open closes again if the rest does not open
            opened = store or Store.open(settings.store_uri)
            if store is None:
                undo.callback(opened.close)
            saver = checkpointer or open_checkpointer(opened)
            if checkpointer is None:
                undo.callback(close_checkpointer, saver)
            runtime = cls(
                bundle,
                store=opened,
                owns_store=store is None,
                policies=policies,
                resources=resources,
                clock=clock,
                checkpointer=saver,
                owns_checkpointer=checkpointer is None,
                settings=settings,
                tracer=Tracer(
                    enabled=settings.tracing if tracing is None else tracing, settings=settings
                ),
                tool_wrapper=tool_wrapper,
                model=model,
                version=version,
            )
            undo.pop_all()
        return runtime

    def close(self) -> None:
        """Close what `open` opened; resources given by the caller stay open."""
        self._gateway.close()
        self._mcp.close()
        self._audit.close()
        if self._owns_checkpointer:
            close_checkpointer(self._checkpointer)
        if self._owns_store:
            self.store.close()

    def forget_traffic(self) -> None:
        """Forget what this process counted and which tools it found out of order.

        For evaluation, where every case is a world of its own: what one case used up or broke must
        not decide how the next one ends.
        """
        for guard in self._trust.guards:
            forget = getattr(guard, "forget", None)
            if forget is not None:
                forget()

    def __enter__(self) -> AgentRuntime:  # noqa: PYI034 - Self is not in Python 3.10
        """Return the runtime itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- turns -----------------------------------------------------------------------------------

    def invoke(self, request: AgentRequest) -> AgentReply:
        """Run one turn and return the agent's reply.

        Raises:
            RequestError: The message is empty, too long or not valid text.
            SessionNotFoundError: `request` resumes a session this actor does not have.
            SessionBusyError: Another worker is running a turn of this session.
            StoppedError: An operator has stopped the agent or the tenant.
            QuotaExceededError: A quota is used up, and the turn has done nothing.
            BudgetExceededError: As before, of the session's budget.
            LimitsUnavailableError: Quotas cannot be counted.
            SpoolError: The spool of telemetry is full, and set to stop the agent.
            StoreError: The runtime store cannot be read or written.
            AgentRunError: The graph or the model failed.
        """
        reply: AgentReply | None = None
        for event in self.stream(request, deltas=False):
            if isinstance(event, AgentReply):
                reply = event
        assert reply is not None
        return reply

    def stream(
        self, request: AgentRequest, *, deltas: bool = True
    ) -> Iterator[TextDelta | AgentReply]:
        """Run one turn, yielding pieces of the answer and, last, the whole reply.

        Raises: as `invoke`.
        """
        session_id = check_request(request, max_chars=self._settings.max_message_chars)
        self._tracer.check()
        with ExitStack() as limits:
            begun: Callable[[], None] = lambda: None  # noqa: E731 - nobody counts
            if self._trust.turns is not None:
                begun = limits.enter_context(self._trust.turns.request(request.actor, session_id))
            unsaved = limits.enter_context(
                unsaved_state(self._checkpointer, self.store, session_id)
            )
            yield from self._one_turn(request, session_id, begun, unsaved, deltas=deltas)

    def _one_turn(
        self,
        request: AgentRequest,
        session_id: str,
        begun: Callable[[], None],
        unsaved: UnsavedState,
        *,
        deltas: bool,
    ) -> Iterator[TextDelta | AgentReply]:
        actor = request.actor
        agent, digest = self.bundle.manifest.name, self.bundle.digest.value
        turn = Turn(
            request_id=uuid.uuid4().hex,
            session_id=session_id,
            actor=actor,
            owner=uuid.uuid4().hex,
            number=0,
            event_time=request.event_time or self._clock(),
            audited=self._audited,
            unsaved=unsaved,
        )
        # One durable commit for all that stands before the work: session, lease, first event.
        with self._audit.transaction() as opening:
            connection = opening.connection
            if request.resume:
                self._sessions.require(session_id, actor, connection=connection)
            else:
                self._sessions.open(session_id, actor, agent, digest, connection=connection)
            lease = self._sessions.acquire_lease(
                session_id, turn.owner, LEASE_SECONDS, connection=connection
            )
            turn.number = lease.turn
            opening.append(
                AuditKind.REQUEST_RECEIVED,
                **self._facts(turn),
                text_digest=sha256_digest(request.text.encode()),
                chars=len(request.text),
                resume=request.resume,
            )
        begun()
        released: list[bool] = []
        try:
            if self._trust.turns is not None:
                turn.spend = self._trust.turns.open_spend(session_id)
            yield from self._run(request, turn, released, deltas=deltas)
        finally:
            if not released:
                with unsaved.saving() as save, self.store.begin() as connection:
                    save(connection)
                    self._sessions.release(session_id, turn.owner, connection=connection)

    def _run(
        self, request: AgentRequest, turn: Turn, released: list[bool], *, deltas: bool
    ) -> Iterator[TextDelta | AgentReply]:
        started = time.perf_counter()
        facts = self._facts(turn)
        name = self.bundle.manifest.name
        inputs = {"text": request.text, "session_id": turn.session_id, "resume": request.resume}
        with self._tracer.span(name, "AGENT", inputs) as span:
            try:
                turns = self._turns(request, turn, deltas=deltas)
                reply = yield from private_deltas(
                    turns, self._trust.privacy, session_id=turn.session_id
                )
            except Exception as error:
                self._audit.append(
                    AuditKind.REQUEST_ANSWERED,
                    **facts,
                    outcome=Outcome.FAILED.value,
                    error=type(error).__name__,
                )
                if not isinstance(error, RequestError):
                    # A turn that failed is traffic too, and counts in the failure rate.
                    self._summarise(self._failed(turn, started), request, turn)
                raise
            reply = replace(
                reply,
                text=self._trust.privacy.answer(reply.text, session_id=turn.session_id),
                seconds=time.perf_counter() - started,
                trace_id=getattr(span, "trace_id", None),
            )
            answered = {"text": reply.text, "outcome": reply.outcome.value}
            span.set_outputs(self._tracer.mask(answered))
            span.set_attribute("agent.digest", reply.agent_digest)
            span.set_attribute("agent.request_id", turn.request_id)
            self._summarise(reply, request, turn)
        with turn.unsaved.saving() as save, self._audit.transaction() as ending:
            save(ending.connection)
            ending.append(
                AuditKind.REQUEST_ANSWERED,
                **facts,
                outcome=reply.outcome.value,
                trace_id=reply.trace_id,
                calls=[call.call_id for call in reply.calls],
            )
            self._sessions.release(turn.session_id, turn.owner, connection=ending.connection)
        released.append(True)
        yield reply

    def _turns(
        self, request: AgentRequest, turn: Turn, *, deltas: bool
    ) -> Generator[TextDelta, None, AgentReply]:
        """Finish what is unfinished, then take the new message; yields deltas, returns a reply."""
        parts: list[AgentReply] = []
        unfinished = self._runner.unfinished(turn)
        if unfinished is not None:
            resumed = yield from self._runner.step(unfinished, turn, deltas=deltas)
            if resumed.outcome is Outcome.WAITING_APPROVAL or request.resume or not request.text:
                return resumed
            parts.append(resumed)
        elif request.resume:
            raise RequestError(
                "the session is not waiting for anything",
                where="input",
                hint="Send a user message instead of an approval response.",
            )
        text = self._trust.privacy.user_text(request.text, session_id=turn.session_id)
        message = user_message(text, message_id=uuid.uuid4().hex)
        parts.append((yield from self._runner.step({"messages": [message]}, turn, deltas=deltas)))
        return _joined(parts)

    # --- helpers ---------------------------------------------------------------------------------

    def _failed(self, turn: Turn, started: float) -> AgentReply:
        return AgentReply(
            text="",
            outcome=Outcome.FAILED,
            session_id=turn.session_id,
            agent=self.bundle.manifest.name,
            agent_digest=self.bundle.digest.value,
            calls=tuple(turn.records.values()),
            seconds=time.perf_counter() - started,
        )

    def _summarise(self, reply: AgentReply, request: AgentRequest, turn: Turn) -> None:
        row = row_from_reply(
            reply,
            text=request.text,
            event_time=turn.event_time,
            actor=turn.actor,
            trace_id=reply.trace_id or turn.request_id,
            version=self.version,
            mask=self._tracer.mask,
            violations=turn.violations,
        )
        self._tracer.summarise(
            row, session_id=turn.session_id, steps=turn.steps, answers=turn.answers.values()
        )

    def _extend_lease(self, turn: Turn, seconds: float, connection: Connection) -> None:
        if seconds > LEASE_SECONDS / 2:
            until = max(seconds, LEASE_SECONDS)
            self._sessions.renew(turn.session_id, turn.owner, until, connection=connection)

    def _facts(self, turn: Turn) -> dict[str, Any]:
        return {
            "request_id": turn.request_id,
            "session_id": turn.session_id,
            "actor": turn.actor,
            "agent": self.bundle.manifest.name,
            "agent_digest": self.bundle.digest.value,
        }

    def waiting(self, session_id: str) -> tuple[PendingApproval, ...]:
        """Return the approvals a session waits for."""
        return tuple(
            PendingApproval(
                approval_id=found.approval_id,
                tool=found.tool,
                arguments=found.arguments,
                role=found.role,
                reason=found.reason,
                expires_at=found.expires_at,
            )
            for found in self.approvals.list(session_id=session_id)
            if found.state.value == "waiting"
        )


def _wrapped(mcp: McpTools, wrapper: ToolWrapper | None) -> dict[str, Any]:
    if wrapper is None:
        return mcp.functions
    return {name: wrapper(name, function) for name, function in mcp.functions.items()}


def _joined(parts: list[AgentReply]) -> AgentReply:
    first, last = parts[0], parts[-1]
    if first is last:
        return last
    return replace(
        last,
        text=f"{first.text}\n\n{last.text}",
        calls=last.calls,
        outcome=last.outcome if last.outcome is not Outcome.ANSWERED else first.outcome,
    )
