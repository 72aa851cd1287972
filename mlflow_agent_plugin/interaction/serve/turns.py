"""One turn for one caller, whatever protocol it came by: place, meters, version, time.

Rules:
- More turns at a time than allowed wait a moment, then are refused with when to try again.
- A caller that waited `timeout_seconds` is told so; the turn ends by itself, and what it did is on
  record. A stream ends with the next piece.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.responses import response_of, stream_events
from mlflow_agent_plugin.interaction.serve.http import HttpError

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import AgentRequest
    from mlflow_agent_plugin.interaction.serve.agents import Served, ServedAgents
    from mlflow_agent_plugin.interaction.serve.meters import Meters
    from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
    from mlflow_agent_plugin.interaction.serve.traffic import TakenTurn

WAIT_SECONDS = 5.0
"""How long a request waits for its turn when the worker is full."""


class Turns:
    """The turns of one worker.

    Args:
        settings: How many at a time, and how long.
        agents: What is served.
        meters: Counts them.
    """

    def __init__(self, settings: ServeSettings, agents: ServedAgents, meters: Meters) -> None:
        self.settings = settings
        self._agents = agents
        self._meters = meters
        self._places = threading.BoundedSemaphore(settings.max_concurrent)

    def answer(self, served: Served, request: AgentRequest) -> tuple[dict[str, Any], str | None]:
        """Return the Responses response, and the registered version it came from.

        Raises: as `AgentRuntime.invoke`; `HttpError` when the worker is full.
        """
        with self._taken(served, request) as taken:
            return response_of(taken.invoke()), taken.version

    def events(
        self, served: Served, request: AgentRequest
    ) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield text deltas and, last, the completed response, each with the version."""
        deadline = time.monotonic() + self.settings.timeout_seconds
        with self._taken(served, request) as taken:
            for event in stream_events(taken.stream()):
                yield event, taken.version
                if time.monotonic() > deadline:
                    raise timed_out()

    @contextmanager
    def _taken(self, served: Served, request: AgentRequest) -> Iterator[TakenTurn]:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise HttpError(503, "this worker is full", code="overloaded", retry_after=WAIT_SECONDS)
        try:
            with self._meters.turn(served.name), self._agents.take(served, request) as taken:
                yield taken
        finally:
            self._places.release()


def timed_out() -> HttpError:
    """Return what a caller that waited too long is told."""
    return HttpError(
        504, "the answer took too long; the turn goes on and is on record", code="timeout"
    )
