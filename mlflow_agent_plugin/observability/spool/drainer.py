"""Empties a spool in the background, in order, one process at a time.

Rules:
- Of the processes that share a spool one drains; the lock is the operating system's, so it passes
  on when its holder dies, however it dies.
- While the link is away the first event is tried again, after 0.5 seconds, then longer, at most 30.
- An event that is refused is set aside, and those behind it go on. Where it is unclear whether
  the event or the server is at fault, the next event decides: if that one is taken, it was the
  event.
- Serving comes first: events are sent in batches, a moment after they come.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import SpoolError
from mlflow_agent_plugin.observability.spool.delivery import (
    LinkAwayError,
    Receiver,
    RefusedError,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.spool.queue import SpooledEvent, SpoolQueue

_logger = logging.getLogger(__name__)

BATCH = 50
GATHER_SECONDS = 0.2
POLL_SECONDS = 2.0
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0


def drain(queue: SpoolQueue, receiver: Receiver, *, batch: int = BATCH) -> int:
    """Deliver what waits now and return how many events arrived.

    The caller holds the drain lock.

    Raises:
        LinkAwayError: The receiver takes nothing now; the rest stays in the queue.
        SpoolError: The queue cannot be read.
    """
    arrived, size = 0, batch
    while events := queue.peek(size):
        try:
            count = receiver.deliver(events)
        except RefusedError as error:
            if len(events) > 1:
                size = 1  # find out which one
                continue
            arrived += _refused(queue, receiver, events[0], error)
            size = batch
            continue
        queue.done(events[:count])
        arrived += count
        size = min(batch, size * 2)
    return arrived


def _refused(
    queue: SpoolQueue, receiver: Receiver, event: SpooledEvent, error: RefusedError
) -> int:
    """Set a refused event aside, or find that the receiver is at fault; return who arrived."""
    arrived = 0
    if not error.final:
        others = [other for other in queue.peek(2) if other.seq != event.seq]
        if not others:
            raise LinkAwayError(str(error)) from error
        try:
            arrived = receiver.deliver(others)
        except RefusedError as second:
            if not second.final:
                raise LinkAwayError(str(error)) from error
            event, error = others[0], second  # this one surely; the first is tried again
        else:
            queue.done(others)
    queue.set_aside(event, str(error))
    _logger.error("Event %s of the spool is set aside: %s", event.event_id, error)
    return arrived


class Drainer:
    """Drains `queue` in a thread of its own until it is closed.

    Args:
        queue: What to empty.
        receiver: Makes the receiver, in the thread, when there is first something to send.
    """

    def __init__(self, queue: SpoolQueue, receiver: Callable[[], Receiver]) -> None:
        self._queue = queue
        self._make = receiver
        self._receiver: Receiver | None = None
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process = -1
        self._start_lock = threading.Lock()
        self._away_since: float | None = None

    def wake(self) -> None:
        """Say that there is something to send; starts the thread if need be (after a fork, too)."""
        if self._process != os.getpid():
            self._after_fork()
        self._woken.set()

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """Wait until the queue is empty, at most so long; return whether it is."""
        deadline = time.monotonic() + timeout_seconds
        self.wake()
        while not self._queue.is_empty():
            left = deadline - time.monotonic()
            if left <= 0 or self._closing.is_set():
                return False
            self._woken.set()
            with self._idle:
                self._idle.wait(min(left, 0.1))
        return True

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Send what can be sent in time and stop; the rest stays in the queue."""
        if self._process == os.getpid() and self._away_since is None:
            self.flush(timeout_seconds)
        self._closing.set()
        self._woken.set()
        thread = self._thread
        if thread is not None and thread.is_alive() and self._process == os.getpid():
            thread.join(timeout_seconds)

    def _after_fork(self) -> None:
        with self._start_lock:
            if self._process == os.getpid():
                return
            self._woken, self._closing = threading.Event(), threading.Event()
            self._idle = threading.Condition()
            self._receiver = None
            self._thread = threading.Thread(
                target=self._run, name="mlflow-agents-spool", daemon=True
            )
            self._process = os.getpid()
            self._thread.start()

    def _run(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(f"{self._queue.path}.drain", is_singleton=False, thread_local=False)
        wait = FIRST_WAIT_SECONDS
        while not self._closing.is_set():
            self._woken.wait(POLL_SECONDS)
            self._closing.wait(GATHER_SECONDS)
            self._woken.clear()
            try:
                if self._queue.is_empty():
                    continue
                with lock.acquire(timeout=0):
                    self._drain()
                wait = FIRST_WAIT_SECONDS
            except Timeout:
                continue  # another process drains
            except LinkAwayError as error:
                self._note_away(error)
                self._closing.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
                self._woken.set()
            except SpoolError as error:
                _logger.warning("The spool is not drained: %s", error)
                self._closing.wait(LONGEST_WAIT_SECONDS)
            except Exception:
                _logger.exception("Draining the spool failed; it goes on")
                self._closing.wait(LONGEST_WAIT_SECONDS)
            finally:
                with self._idle:
                    self._idle.notify_all()

    def _drain(self) -> None:
        if self._receiver is None:
            self._receiver = self._make()
        count = drain(self._queue, self._receiver)
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            self._away_since = None
            _logger.warning(
                "The tracking server is back after %.0f seconds: %d traces delivered", away, count
            )

    def _note_away(self, error: LinkAwayError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            _logger.warning(
                "The tracking server does not take traces, they wait in %s: %s",
                self._queue.path,
                error,
            )


def drain_now(queue: SpoolQueue, receiver: Receiver, *, wait_seconds: float = 0.0) -> int:
    """Deliver what waits, as the one process that drains; return how many events arrived.

    Args:
        queue: What to empty.
        receiver: Where to.
        wait_seconds: How long to wait for another process that drains.

    Raises:
        LinkAwayError: The receiver takes nothing now.
        SpoolError: Another process drains, or the queue cannot be read.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{queue.path}.drain", is_singleton=False, thread_local=False)
    try:
        with lock.acquire(timeout=wait_seconds):
            return drain(queue, receiver)
    except Timeout as error:
        raise SpoolError("another process drains it", where=str(queue.path)) from error
