"""A lease in the store that its holder renews, and that stops the holder's work when it is lost.

Rules:
- Renewing never takes: a lease somebody else had meanwhile is lost, even if it is free again.
- It counts as lost, too, when the store could not be asked for as long as it lasts: by then
  somebody else may have it.
- Whoever loses a lease stops: what `when_lost` was given is called at once (it ends the child
  processes), and `check` raises.
- Processes started under leases are told which (`LEASES_VARIABLE`). They stop when one of them is
  lost, and a stage that writes to the registry asks once more right before (`check_leases`), so
  that a process that outlived its parent writes nothing. The registry is another database: between
  that look and the write lie milliseconds, not the minutes of a stage.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, LeaseLostError

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.store.leases import LeaseTable

_logger = logging.getLogger(__name__)

LEASES_VARIABLE = "MLFLOW_AGENTS_LEASES"
"""Environment variable of child processes: the leases they work under, as ``[[name, holder]]``."""

_LOOK_SECONDS = 5.0
"""A machine that slept finds out within this time, however long its lease is."""

_held: ContextVar[tuple[HeldLease, ...]] = ContextVar("mlflow_agents_held_leases", default=())


class HeldLease:
    """A lease this process holds.

    Args:
        leases: Where it is; it is acquired already.
        name: Its name.
        holder: This holder.
        seconds: How long it lasts after a renewal.
        clock: Source of time.
    """

    def __init__(
        self, leases: LeaseTable, name: str, holder: str, seconds: float, *, clock: Clock = utc_now
    ) -> None:
        self.name, self.holder = name, holder
        self._leases, self._seconds, self._clock = leases, seconds, clock
        self._renewed = clock()
        self._lock = threading.Lock()
        self._lost = False
        self._calls: list[Callable[[], None]] = []

    @property
    def lost(self) -> bool:
        """Whether somebody else has it, or may have it."""
        return self._lost

    def check(self) -> None:
        """Raise if it is lost.

        Raises:
            LeaseLostError: It is.
        """
        if self._lost:
            raise LeaseLostError(
                f"the lease {self.name} went to somebody else, or could not be renewed in time",
                hint="What was begun under it was stopped. Look who holds it, and start again.",
            )

    @contextmanager
    def when_lost(self, call: Callable[[], None]) -> Iterator[None]:
        """Call `call` once if the lease is lost during the block (at once, if it is already)."""
        with self._lock:
            self._calls.append(call)
            late = self._lost
        try:
            if late:
                call()
            yield
        finally:
            with self._lock, suppress(ValueError):
                self._calls.remove(call)

    def look(self) -> None:
        """Renew the lease if it is time to, and find out whether it is lost."""
        now = self._clock()
        age = (now - self._renewed).total_seconds()
        if self._lost or 0 <= age < self._seconds / 3:
            return
        try:
            kept = self._leases.renew(self.name, self.holder, self._seconds) and all(
                self._leases.has(name, holder) for name, holder in _inherited()
            )
        except AgentError:
            _logger.warning("The lease %s was not renewed", self.name, exc_info=True)
            if age < self._seconds:
                return
            kept = False
        if kept:
            self._renewed = now
            return
        _logger.error("The lease %s is lost: what was begun under it stops", self.name)
        with self._lock:
            self._lost = True
            calls = list(self._calls)
        for call in calls:
            try:
                call()
            except Exception:
                _logger.exception("Work under the lease %s could not be stopped", self.name)

    @contextmanager
    def kept(self) -> Iterator[HeldLease]:
        """Renew the lease in the background for the block; children inherit it."""
        done = threading.Event()
        every = min(self._seconds / 3, _LOOK_SECONDS)

        def keep() -> None:
            while not done.wait(every):
                self.look()

        keeper = threading.Thread(target=keep, name="mlflow-agents-lease", daemon=True)
        keeper.start()
        token = _held.set((*_held.get(), self))
        try:
            yield self
        finally:
            _held.reset(token)
            done.set()
            keeper.join()


def check_held() -> None:
    """Raise if a lease this block is under is lost.

    Raises:
        LeaseLostError: It is.
    """
    for lease in _held.get():
        lease.check()


def leases_for_children() -> str:
    """Return the value of `LEASES_VARIABLE` for a child process; empty without leases."""
    found = [*_inherited(), *((lease.name, lease.holder) for lease in _held.get())]
    return json.dumps(found) if found else ""


def check_leases(store: Store | None = None) -> None:
    """Raise if a lease this process was started under belongs to somebody else now.

    Args:
        store: Where the leases are; default: the configured store.

    Raises:
        LeaseLostError: One does.
        StoreError: It cannot be said; nothing may be written then.
    """
    from mlflow_agent_plugin.store import Store as RuntimeStore
    from mlflow_agent_plugin.store.leases import LeaseTable

    wanted = _inherited()
    if not wanted:
        return
    if store is None:
        with RuntimeStore.open() as opened:
            check_leases(opened)
        return
    table = LeaseTable(store)
    for name, holder in wanted:
        if not table.has(name, holder):
            raise LeaseLostError(
                f"the lease {name} is no longer {holder}'s",
                hint="Another pipeline took over; nothing was written.",
            )


def _inherited() -> list[tuple[str, str]]:
    text = os.environ.get(LEASES_VARIABLE, "")
    if not text:
        return []
    try:
        return [(str(name), str(holder)) for name, holder in json.loads(text)]
    except (ValueError, TypeError) as error:
        # Not "no lease": whoever set it wanted this process to stop with one.
        raise LeaseLostError("is not a list of leases", where=LEASES_VARIABLE) from error
