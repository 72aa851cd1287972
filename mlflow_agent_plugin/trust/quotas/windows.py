"""What was used within windows of the clock, on a storage of the `limits` library.

Rules:
- Windows are those of the clock: with 3,600 seconds, from one full hour (UTC) to the next. Each has
  a counter of its own, so what is given back always goes to the window it was taken from.
- Take first, look then: every use sees all that were taken before it. Concurrent uses at the edge
  may refuse each other; together they never get more than the limit.
- A counter outlives its window by one more, then the storage forgets it.
- `limits`' own strategies cannot give back a part of what they took, which settling needs, so only
  its storages (memory, Redis) are used: `incr` and `get`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mlflow_agent_plugin.entities import Clock


class CounterStorage(Protocol):
    """The part of a storage of `limits` that is used."""

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add `amount` and return the sum; the key expires `expiry` seconds after its first."""

    def get(self, key: str) -> int:
        """Return the sum, 0 if there is none."""


@dataclass(frozen=True)
class Taken:
    """What was taken from one window.

    Attributes:
        counter: Key of the window's counter.
        ends_at: End of the window, seconds since 1970.
    """

    counter: str
    amount: int
    every_seconds: int
    ends_at: float


@dataclass(frozen=True)
class Full:
    """A refusal.

    Attributes:
        retry_after_seconds: Time to the end of the window; None: the amount never fits.
    """

    retry_after_seconds: float | None


class WindowCounters:
    """Counters by key and window.

    Args:
        storage: A storage of `limits`, or anything with its `incr` and `get`.
        clock: Which window it is; workers that share a storage need clocks that agree.
    """

    def __init__(self, storage: CounterStorage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    def take(self, key: str, amount: int, *, limit: int, every_seconds: int) -> Taken | Full:
        """Take `amount` from the window that is open, or nothing.

        An amount of 0 only asks whether anything is left.
        """
        now = self._clock().timestamp()
        number = int(now // every_seconds)
        counter = f"agents:quota:{key}:{number}"
        ends_at = (number + 1) * every_seconds
        wait = max(0.001, ends_at - now)
        if amount > limit:
            return Full(None)
        taken = Taken(counter, amount, every_seconds, ends_at)
        if amount == 0:
            return Full(wait) if self._storage.get(counter) >= limit else taken
        if self._storage.incr(counter, 2 * every_seconds, amount) > limit:
            self._storage.incr(counter, 2 * every_seconds, -amount)
            return Full(wait)
        return taken

    def forget(self) -> None:
        """Begin counting anew, where the counts are this process's own; shared ones stay."""
        from limits.storage import MemoryStorage

        if isinstance(self._storage, MemoryStorage):
            self._storage.reset()

    def settle(self, taken: Taken, actual: int) -> None:
        """Correct what was taken to what was used, more or less."""
        difference = actual - taken.amount
        # A counter whose window is over is looked at by nobody, and may be gone.
        if difference and self._clock().timestamp() < taken.ends_at:
            self._storage.incr(taken.counter, 2 * taken.every_seconds, difference)
