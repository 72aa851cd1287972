"""The suite's environments, one per session, and tool functions that change them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime, TaskEnvironment
    from langchain_core.messages import BaseMessage

    from mlflow_agent_plugin.core.context import ToolContext


@dataclass
class World:
    """One session: its environment, what is to be called next, and what was executed.

    Attributes:
        next_call: Takes the messages so far; the next call with its id, or None at the end.
        answer: What the agent says at the end.
        executed: Calls that reached a tool, with their call ids.
    """

    environment: TaskEnvironment
    runtime: FunctionsRuntime
    next_call: Callable[[list[BaseMessage]], tuple[str, FunctionCall] | None]
    answer: str
    executed: list[tuple[str, FunctionCall]] = field(default_factory=list)


class Worlds:
    """The worlds of all sessions that run now; handed to every tool as ``context.resources``."""

    def __init__(self) -> None:
        self._worlds: dict[str, World] = {}
        self._lock = threading.Lock()

    def put(self, session_id: str, world: World) -> None:
        """Open the world of a session."""
        with self._lock:
            self._worlds[session_id] = world

    def of(self, session_id: str) -> World:
        """Return the world of a session."""
        with self._lock:
            return self._worlds[session_id]

    def drop(self, session_id: str) -> None:
        """Forget the world of a session."""
        with self._lock:
            self._worlds.pop(session_id, None)


OPEN = Worlds()
"""Worlds of this process: the replaying graph finds its session here."""


def tool(name: str) -> Callable[..., dict[str, Any]]:
    """Return the tool function of a bundle: it runs the suite's tool in the session's world."""

    def run(context: ToolContext, **arguments: Any) -> dict[str, Any]:
        from agentdojo.functions_runtime import FunctionCall

        world = context.resources.of(context.session_id)
        call_id = context.idempotency_key.rpartition(":")[2]
        world.executed.append((call_id, FunctionCall(function=name, args=_copied(arguments))))
        result, _ = world.runtime.run_function(
            world.environment, name, arguments, raise_on_error=True
        )
        return {"result": to_jsonable_python(result)}

    run.__name__ = name
    return run


def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = to_jsonable_python(arguments)
    return copied
