"""Shows turns to shadows, after the user has been answered.

Rules:
- A user never waits for a shadow. When the queue is full, turns are not shown, and counted as such.
- One turn of a conversation is shown after the other.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import AgentError

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import AgentRequest
    from mlflow_agent_plugin.lifecycle.rollout import Rollout, RolloutBook, Shadow, TurnVerdict
    from mlflow_agent_plugin.lifecycle.rollout.shadow import Answers

THREADS = 2
QUEUE = 64

_logger = logging.getLogger(__name__)


class Shadows:
    """The turns shadows are shown in one process.

    Attributes:
        shown: Turns shown.
        skipped: Turns not shown for want of room.
    """

    def __init__(self, book: RolloutBook) -> None:
        self._book = book
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(QUEUE)
        self._lock = threading.Lock()
        self._last: dict[str, Future[None]] = {}
        self.shown = 0
        self.skipped = 0

    def show(
        self,
        rollout: Rollout,
        shadow: Shadow,
        request: AgentRequest,
        incumbent: TurnVerdict,
        answers: Answers,
    ) -> None:
        """Show a turn later, if there is room."""
        if not self._room.acquire(blocking=False):
            self.skipped += 1
            return
        session_id = request.session_id or ""
        with self._lock:
            before = self._last.get(session_id)
        future = self._threads.submit(
            self._run, rollout, shadow, request, incumbent, dict(answers), before
        )
        with self._lock:
            self._last[session_id] = future
        future.add_done_callback(lambda _: self._ended(session_id, future))

    def _ended(self, session_id: str, future: Future[None]) -> None:
        self._room.release()
        with self._lock:
            if self._last.get(session_id) is future:
                del self._last[session_id]

    def _run(
        self,
        rollout: Rollout,
        shadow: Shadow,
        request: AgentRequest,
        incumbent: TurnVerdict,
        answers: Answers,
        before: Future[None] | None,
    ) -> None:
        if before is not None:
            wait([before])
        try:
            candidate = shadow.judge(request, answers)
            self.shown += 1
            self._book.compare(
                rollout.rollout_id,
                request.session_id or "",
                incumbent=incumbent,
                candidate=candidate,
            )
        except AgentError as error:
            _logger.warning("%s: a turn was not compared: %s", rollout.rollout_id, error)
        except Exception:
            _logger.exception("%s: a turn was not compared", rollout.rollout_id)

    def leave(self, shadow: Shadow) -> None:
        """Close a shadow after the turns it is being shown."""
        self._threads.submit(shadow.close)

    def close(self) -> None:
        """Finish the turns that are being shown; those that wait are not shown any more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
