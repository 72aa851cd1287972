"""Runs an agent's graph: from one message, or from where it paused, to its end or next pause."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.replies import read_reply
from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
from mlflow_agent_plugin.entities import AgentReply, Outcome
from mlflow_agent_plugin.errors import (
    AgentError,
    AgentRunError,
    BudgetExceededError,
    LimitsUnavailableError,
    QuotaExceededError,
    RequestError,
    StoppedError,
)

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph

    from mlflow_agent_plugin.package import Bundle

_logger = logging.getLogger(__name__)

STILL_WAITING = "Your request is waiting for approval. I will go on once it has been answered."
LIMITED = "I have to stop here for now: a limit has been reached. Please try again later."
STEP_LIMIT = "I could not finish this within my limits. Please rephrase it or ask for a colleague."

LIMITS = (BudgetExceededError, LimitsUnavailableError, QuotaExceededError, StoppedError)
"""What the meter of the model stops a turn with."""


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer, while it is being made."""

    text: str
    message_id: str


@dataclass(frozen=True)
class Unfinished:
    """A graph run to go on with.

    Attributes:
        command: LangGraph's resume command, or None to go on from the last checkpoint.
    """

    command: Any


class GraphRunner:
    """Runs the graph of one agent for one turn after the other.

    Args:
        bundle: The agent.
        graph: Its compiled graph, with the checkpointer that keeps the sessions.
        callbacks: LangChain callback handlers of each run.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        *,
        callbacks: Sequence[BaseCallbackHandler] = (),
    ) -> None:
        self._bundle = bundle
        self._graph = graph
        self._callbacks = list(callbacks)

    def unfinished(self, turn: Turn) -> Unfinished | None:
        """Return where the session was cut off or paused, None if it was not.

        Raises:
            RequestError: It is paused under another version of the agent.
        """
        state = self._state(turn)
        turn.messages = len(state.values.get("messages", []))
        # Not `state.next`: it leaves out steps whose result is kept but not yet applied, and a
        # crash just there would look like the end.
        if not state.tasks:
            return None
        digest = (state.metadata or {}).get("agent_digest")
        if digest != self._bundle.digest.value:
            if not state.interrupts and not _calls_wait(state):
                # Cut off before it wanted anything done: a version that takes over (after a
                # rollback, say) leaves it and starts with the new message.
                self._abandon(turn)
                return None
            raise RequestError(
                "the conversation is paused under another version of the agent",
                where="context.conversation_id",
                hint="Start a new conversation, or answer it with the version that asked.",
            )
        return Unfinished(_resume_input(state))

    def step(
        self, graph_input: Unfinished | Mapping[str, Any], turn: Turn, *, deltas: bool
    ) -> Generator[TextDelta, None, AgentReply]:
        """Run the graph once, until it ends or pauses; yields deltas, returns the reply.

        Args:
            graph_input: A new message's state update, or what `unfinished` gave.
            turn: The turn it runs in.
            deltas: Yield pieces of the answer.

        Raises:
            AgentRunError: The graph or the model failed.
        """
        from langgraph.errors import GraphRecursionError

        config = self._config(turn)
        before = turn.messages
        if before is None:
            before = len(self._state(turn).values.get("messages", []))
        done: Any = None
        resumes = isinstance(graph_input, Unfinished)
        given = graph_input.command if isinstance(graph_input, Unfinished) else graph_input
        limited: str | None = None
        with _current(turn):
            try:
                if deltas:
                    yield from self._stream(given, config, turn)
                else:
                    done = self._graph.invoke(given, config, durability="sync")
            except GraphRecursionError:
                limited = STEP_LIMIT
            except LIMITS as error:
                if not turn.has_acted:
                    self._abandon(turn)
                    raise  # nothing has happened: the client gets the status, and when to retry
                turn.limit(getattr(error, "retry_after_seconds", None))
                limited = LIMITED
            except AgentError:
                raise
            except Exception as error:
                _logger.exception("request %s: the agent failed", turn.request_id)
                raise AgentRunError(
                    f"the agent failed ({type(error).__name__})",
                    where=f"request {turn.request_id}",
                    hint="The server's log has the details.",
                ) from error
        messages = _messages_at_the_end(done)
        if messages is None:
            messages = self._state(turn).values.get("messages", [])
        turn.messages = len(messages)
        reply = read_reply(
            messages,
            None if resumes else before,
            turn=turn,
            manifest=self._bundle.manifest,
            agent_digest=self._bundle.digest.value,
            contracts=self._bundle.contracts,
        )
        if limited is not None:
            self._abandon(turn)
            return replace(reply, text=limited, outcome=Outcome.FAILED)
        return replace(reply, text=reply.text or STILL_WAITING) if reply.approvals else reply

    def _stream(self, graph_input: Any, config: RunnableConfig, turn: Turn) -> Iterator[TextDelta]:
        from langchain_core.messages import AIMessageChunk

        events = self._graph.stream(graph_input, config, stream_mode="messages", durability="sync")
        for message, _ in events:
            if isinstance(message, AIMessageChunk) and message.text:
                yield TextDelta(text=message.text, message_id=message.id or turn.request_id)

    def _config(self, turn: Turn) -> RunnableConfig:
        return {
            "configurable": {"thread_id": turn.session_id},
            "recursion_limit": self._bundle.manifest.model.budgets.max_steps,
            "metadata": {"agent_digest": self._bundle.digest.value},
            "callbacks": list(self._callbacks),
        }

    def _state(self, turn: Turn) -> Any:
        return self._graph.get_state(self._config(turn))

    def _abandon(self, turn: Turn) -> None:
        # The turn is over for the user: end the unfinished graph run, so that the next message
        # starts a new one instead of running into the same limit.
        from langgraph.graph import END

        self._graph.update_state(self._config(turn), None, as_node=END)


def _calls_wait(state: Any) -> bool:
    """Return whether the model asked for tools whose results are not there."""
    messages = state.values.get("messages") or [None]
    return bool(getattr(messages[-1], "tool_calls", None))


def _messages_at_the_end(done: Any) -> Sequence[BaseMessage] | None:
    """Return the messages of a run that went to its end; None where only the checkpoint knows.

    Reading the checkpoint again costs as much as a tool call.
    """
    if not isinstance(done, Mapping) or "__interrupt__" in done:
        return None
    found = done.get("messages")
    return found if isinstance(found, list) else None


def _resume_input(state: Any) -> Any:
    from langgraph.types import Command

    waiting: Mapping[str, bool] = {item.id: True for item in state.interrupts}
    return Command(resume=dict(waiting)) if waiting else None


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
