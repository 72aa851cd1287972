"""One agent at run time: takes a user's turn, gives the agent's.

Rules:
- A session belongs to the actor who opened it; anyone else is told that it does not exist.
- One turn at a time per session, in all processes together: the others are told it is busy.
- A turn that a crash cut off is finished first, from the last checkpoint, before a new one begins;
  the ledger keeps its effects from happening twice.
- A session that waits for a human stays paused until the approval is answered or expires; what is
  said in between is not processed, and the reply says so.
- An agent of another digest does not resume a paused or cut-off turn: its approvals and effects
  were for other content.
- Errors of the graph or model leave as one `AgentRunError` with the request id; details go to the
  log and the audit, not to the client.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from mlflow_agent_plugin.core.gateway import Governance, ToolGateway
from mlflow_agent_plugin.core.messages import user_message
from mlflow_agent_plugin.core.replies import read_reply
from mlflow_agent_plugin.core.tracing import Tracer, mask_value
from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
from mlflow_agent_plugin.entities import (
    AgentReply,
    AgentRequest,
    Clock,
    Outcome,
    PendingApproval,
    sha256_digest,
    utc_now,
)
from mlflow_agent_plugin.errors import AgentError, AgentRunError, RequestError, SessionNotFoundError
from mlflow_agent_plugin.observability.schema import row_from_reply
from mlflow_agent_plugin.store import SessionTable, Store
from mlflow_agent_plugin.trust import (
    ApprovalQueue,
    AuditKind,
    AuditLog,
    CedarPolicyEngine,
    EffectLedger,
    PolicyEngine,
)

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from mlflow_agent_plugin.package import Bundle

_logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""How long a session stays busy after its worker died; a living worker extends it."""

MAX_SESSION_ID_CHARS = 200

STILL_WAITING = "Your request is waiting for approval. I will go on once it has been answered."
STEP_LIMIT = "I could not finish this within my limits. Please rephrase it or ask for a colleague."


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer, while it is being made."""

    text: str
    message_id: str


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
        self._audit = AuditLog(store, clock=clock)
        self.approvals = ApprovalQueue(store, clock=clock, audit=self._audit)
        manifest = bundle.manifest
        knowledge = load_knowledge(bundle)
        functions = load_functions(bundle, tool_wrapper)
        self._gateway = ToolGateway(
            agent=manifest.name,
            agent_digest=bundle.digest.value,
            contracts={name: bundle.contracts[name] for name in manifest.usable_tools()},
            functions=functions,
            governance=Governance(
                policies=policies,
                approvals=self.approvals,
                ledger=EffectLedger(store, clock=clock),
                audit=self._audit,
            ),
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
            bundle, govern=self._gateway.govern, knowledge=knowledge, checkpointer=checkpointer
        )

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
        opened = store or Store.open(settings.store_uri)
        return cls(
            bundle,
            store=opened,
            owns_store=store is None,
            policies=policies,
            resources=resources,
            clock=clock,
            checkpointer=checkpointer or open_checkpointer(opened),
            owns_checkpointer=checkpointer is None,
            settings=settings,
            tracer=Tracer(enabled=settings.tracing if tracing is None else tracing),
            tool_wrapper=tool_wrapper,
            version=version,
        )

    def close(self) -> None:
        """Close what `open` opened; resources given by the caller stay open."""
        self._gateway.close()
        self._audit.close()
        if self._owns_checkpointer:
            close_checkpointer(self._checkpointer)
        if self._owns_store:
            self.store.close()

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
        session_id = self._check(request)
        actor = request.actor
        agent, digest = self.bundle.manifest.name, self.bundle.digest.value
        if request.resume:
            self._sessions.require(session_id, actor)
        else:
            self._sessions.open(session_id, actor, agent, digest)
        owner = uuid.uuid4().hex
        number = self._sessions.acquire_lease(session_id, owner, LEASE_SECONDS).turn
        turn = Turn(
            request_id=uuid.uuid4().hex,
            session_id=session_id,
            actor=actor,
            owner=owner,
            number=number,
            event_time=request.event_time or self._clock(),
        )
        try:
            yield from self._run(request, turn, deltas=deltas)
        finally:
            self._sessions.release(session_id, owner)

    def _run(
        self, request: AgentRequest, turn: Turn, *, deltas: bool
    ) -> Iterator[TextDelta | AgentReply]:
        started = time.perf_counter()
        facts = self._facts(turn)
        self._audit.append(
            AuditKind.REQUEST_RECEIVED,
            **facts,
            text_digest=sha256_digest(request.text.encode()),
            chars=len(request.text),
            resume=request.resume,
        )
        name = self.bundle.manifest.name
        inputs = {"text": request.text, "session_id": turn.session_id, "resume": request.resume}
        with self._tracer.span(name, "AGENT", inputs) as span:
            try:
                reply = yield from self._turns(request, turn, deltas=deltas)
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
                seconds=time.perf_counter() - started,
                trace_id=getattr(span, "trace_id", None),
            )
            span.set_outputs(mask_value({"text": reply.text, "outcome": reply.outcome.value}))
            span.set_attribute("agent.digest", reply.agent_digest)
            span.set_attribute("agent.request_id", turn.request_id)
            self._summarise(reply, request, turn)
        self._audit.append(
            AuditKind.REQUEST_ANSWERED,
            **facts,
            outcome=reply.outcome.value,
            trace_id=reply.trace_id,
            calls=[call.call_id for call in reply.calls],
        )
        yield reply

    def _turns(
        self, request: AgentRequest, turn: Turn, *, deltas: bool
    ) -> Generator[TextDelta, None, AgentReply]:
        """Finish what is unfinished, then take the new message; yields deltas, returns a reply."""
        parts: list[AgentReply] = []
        state = self._state(turn)
        if state.next:
            self._same_agent(state)
            resumed = yield from self._step(_resume_input(state), turn, deltas=deltas)
            if resumed.outcome is Outcome.WAITING_APPROVAL or request.resume or not request.text:
                return resumed
            parts.append(resumed)
        elif request.resume:
            raise RequestError(
                "the session is not waiting for anything",
                where="input",
                hint="Send a user message instead of an approval response.",
            )
        message = user_message(request.text, message_id=uuid.uuid4().hex)
        parts.append((yield from self._step({"messages": [message]}, turn, deltas=deltas)))
        return _joined(parts)

    def _step(
        self, graph_input: Any, turn: Turn, *, deltas: bool
    ) -> Generator[TextDelta, None, AgentReply]:
        """Run the graph once, until it ends or pauses; yields deltas, returns the reply."""
        from langgraph.errors import GraphRecursionError

        config = self._config(turn)
        before = len(self._state(turn).values.get("messages", []))
        waited = isinstance(graph_input, dict)
        limited = False
        with _current(turn):
            try:
                if deltas:
                    yield from self._stream_graph(graph_input, config, turn)
                else:
                    self.graph.invoke(graph_input, config, durability="sync")
            except GraphRecursionError:
                limited = True
            except AgentError:
                raise
            except Exception as error:
                _logger.exception("request %s: the agent failed", turn.request_id)
                raise AgentRunError(
                    f"the agent failed ({type(error).__name__})",
                    where=f"request {turn.request_id}",
                    hint="The server's log has the details.",
                ) from error
        reply = read_reply(
            self._state(turn).values.get("messages", []),
            before if waited else None,
            turn=turn,
            manifest=self.bundle.manifest,
            agent_digest=self.bundle.digest.value,
            contracts=self.bundle.contracts,
        )
        if limited:
            self._abandon(turn)
            return replace(reply, text=STEP_LIMIT, outcome=Outcome.FAILED)
        return replace(reply, text=reply.text or STILL_WAITING) if reply.approvals else reply

    def _stream_graph(
        self, graph_input: Any, config: RunnableConfig, turn: Turn
    ) -> Iterator[TextDelta]:
        from langchain_core.messages import AIMessageChunk

        events = self.graph.stream(graph_input, config, stream_mode="messages", durability="sync")
        for message, _ in events:
            if isinstance(message, AIMessageChunk) and message.text:
                yield TextDelta(text=message.text, message_id=message.id or turn.request_id)

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
        )
        self._tracer.summarise(row, session_id=turn.session_id)

    def _check(self, request: AgentRequest) -> str:
        text, limit = request.text, self._settings.max_message_chars
        if not request.resume and not text.strip():
            raise RequestError("the message is empty", where="input", hint="Send some text.")
        if len(text) > limit:
            raise RequestError(
                f"the message has {len(text)} characters; at most {limit} are accepted",
                where="input",
                hint="Shorten it, or raise MLFLOW_AGENTS_MAX_MESSAGE_CHARS.",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("the message is not valid Unicode", where="input") from error
        session_id = request.session_id
        if session_id is None:
            if request.resume:
                raise SessionNotFoundError(
                    "an approval response needs its conversation",
                    where="context.conversation_id",
                )
            return uuid.uuid4().hex
        if not session_id.isprintable() or not 0 < len(session_id) <= MAX_SESSION_ID_CHARS:
            raise RequestError(
                f"is not 1 to {MAX_SESSION_ID_CHARS} printable characters",
                where="context.conversation_id",
            )
        return session_id

    def _config(self, turn: Turn) -> RunnableConfig:
        return {
            "configurable": {"thread_id": turn.session_id},
            "recursion_limit": self.bundle.manifest.model.budgets.max_steps,
            "metadata": {"agent_digest": self.bundle.digest.value},
        }

    def _state(self, turn: Turn) -> Any:
        return self.graph.get_state(self._config(turn))

    def _same_agent(self, state: Any) -> None:
        digest = (state.metadata or {}).get("agent_digest")
        if digest != self.bundle.digest.value:
            raise RequestError(
                "the conversation is paused under another version of the agent",
                where="context.conversation_id",
                hint="Start a new conversation, or answer it with the version that asked.",
            )

    def _abandon(self, turn: Turn) -> None:
        # The turn is over for the user: end the unfinished graph run, so that the next message
        # starts a new one instead of running into the same limit.
        from langgraph.graph import END

        self.graph.update_state(self._config(turn), None, as_node=END)

    def _extend_lease(self, turn: Turn, seconds: float) -> None:
        if seconds > LEASE_SECONDS / 2:
            self._sessions.renew(turn.session_id, turn.owner, max(seconds, LEASE_SECONDS))

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


@contextmanager
def _current(turn: Turn) -> Iterator[None]:
    token = CURRENT_TURN.set(turn)
    try:
        yield
    finally:
        try:
            CURRENT_TURN.reset(token)
        except ValueError:
            # A stream that was dropped half-way is closed from another context: nothing to reset.
            CURRENT_TURN.set(None)


def _resume_input(state: Any) -> Any:
    from langgraph.types import Command

    waiting: Mapping[str, bool] = {item.id: True for item in state.interrupts}
    return Command(resume=dict(waiting)) if waiting else None


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
