"""Bulkheads: how many calls of one tool, and of all tools together, one tenant may have running.

Rules:
- A place is held until the function has really ended: one that hangs past its time limit keeps
  its place, so that hung calls cannot pile up without end.
- Places belong to tenants: a tenant whose calls hang takes no thread from another.
- Who finds no place waits for a moment, then is refused.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable

WAIT_SECONDS = 1.0
"""How long a call waits for a place."""


class Slot:
    """A place that several may hold; free when the last has let go."""

    def __init__(self, bulkhead: Bulkhead, keys: tuple[Hashable, ...]) -> None:
        self._bulkhead = bulkhead
        self._keys = keys
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Hold it once more."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Let go."""
        with self._lock:
            self._holders -= 1
            ended = self._holders == 0
        if ended:
            self._bulkhead._leave(self._keys)  # noqa: SLF001 - same module


class Bulkhead:
    """Counts what runs, by key."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: Counter[Hashable] = Counter()

    def enter(
        self, limits: tuple[tuple[Hashable, int], ...], *, wait_seconds: float = WAIT_SECONDS
    ) -> Slot | None:
        """Take a place under every key, or none.

        Args:
            limits: Keys, and how many may run under each.
            wait_seconds: How long to wait for one.
        """
        until = time.monotonic() + wait_seconds
        with self._changed:
            while any(self._running[key] >= limit for key, limit in limits):
                remaining = until - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            keys = tuple(key for key, _ in limits)
            self._running.update(keys)
        return Slot(self, keys)

    def _leave(self, keys: tuple[Hashable, ...]) -> None:
        with self._changed:
            for key in keys:
                self._running[key] -= 1
                if self._running[key] <= 0:
                    del self._running[key]
            self._changed.notify_all()
