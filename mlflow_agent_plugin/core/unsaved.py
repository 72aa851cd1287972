"""Session state a turn has made and that is not on disk yet.

LangGraph saves its state twice a step, and each time waits for the disk. A turn's audit events go
to the same database: so its state waits for the next of them, and shares their commit.

Rules:
- Every transaction of a turn (a tool's decision and start, a tool's end, a request for approval,
  the answer) holds all the state made before it. What a tool's start or an approval goes back to is
  durable before the tool runs or a reviewer sees it; the whole turn is before its answer is given.
- What a killed process had not saved is what its model said since the last of them. The next turn
  goes on from there: no effect lies in between, and what ended before is in the ledger.
- Outside a turn a write is LangGraph's own: durable when it returns.
- Whoever reads state in a namespace gets what waits there saved first.
- A transaction that did not commit leaves everything waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlflow_agent_plugin.store import Store

Save = Callable[["Connection"], None]
"""Writes what waits into a transaction."""


@dataclass(frozen=True)
class Statement:
    """What LangGraph would have run: parameters of one row, or of many."""

    text: str
    parameters: Sequence[Any]
    many: bool


Run = Callable[["Connection", Sequence[Statement]], None]
"""Runs statements on a transaction's connection, as LangGraph's saver would."""


class Recorder:
    """Stands where a saver expects a cursor it only writes through."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> None:
        """Note a statement."""
        self.statements.append(Statement(text, tuple(parameters), many=False))

    def executemany(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Note a statement of many rows."""
        self.statements.append(Statement(text, tuple(rows), many=True))


@dataclass
class _Waiting:
    """What one session's running turn has not saved; by namespace, in order."""

    turns: int = 0
    numbers: Iterator[int] = field(default_factory=count)
    writes: dict[int, tuple[str, list[Statement]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _save_nothing(connection: Connection) -> None:
    del connection


_NOTHING: AbstractContextManager[Save, bool | None] = nullcontext(_save_nothing)


class UnsavedState:
    """What one turn has not saved; this one never has anything.

    For a checkpointer that keeps its sessions elsewhere than the audit.
    """

    def saving(self) -> AbstractContextManager[Save, bool | None]:
        """Enter before a transaction; what the given function wrote counts as saved afterwards.

        If the block raises, nothing does.
        """
        return _NOTHING


class _TurnState(UnsavedState):
    def __init__(self, waiting: _Waiting, run: Run) -> None:
        self._waiting = waiting
        self._run = run

    def saving(self) -> AbstractContextManager[Save, bool | None]:
        return _Saving(self._waiting, self._run)


class _Saving(AbstractContextManager[Save, "bool | None"]):
    def __init__(self, waiting: _Waiting, run: Run) -> None:
        self._waiting = waiting
        self._run = run
        self._saved: list[int] = []

    def __enter__(self) -> Save:
        return self._save

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._saved:
            with self._waiting.lock:
                for number in self._saved:
                    self._waiting.writes.pop(number, None)

    def _save(self, connection: Connection) -> None:
        with self._waiting.lock:
            found = list(self._waiting.writes.items())
        if found:
            self._run(connection, [each for _, (_, part) in found for each in part])
            self._saved.extend(number for number, _ in found)


class StateWrites:
    """Takes the writes of a saver whose sessions lie in `store`, and keeps those of running turns.

    Args:
        store: Where they are.
        run: Runs them there.
    """

    def __init__(self, store: Store, run: Run) -> None:
        self.store = store
        self._run = run
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._here = threading.local()

    @contextmanager
    def turn(self, session_id: str) -> Iterator[UnsavedState]:
        """Let the state of a session wait for its turn's transactions.

        Whoever enters saves before he leaves: what is left then is dropped. A turn that outlived
        its lease shares with the one that took over, so that neither acts on what the other keeps.
        """
        with self._lock:
            waiting = self._waiting.setdefault(session_id, _Waiting())
            waiting.turns += 1
        try:
            yield _TurnState(waiting, self._run)
        finally:
            with self._lock:
                waiting.turns -= 1
                if not waiting.turns:
                    del self._waiting[session_id]

    @contextmanager
    def kept(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Keep what the saver writes within the block, if a turn of its session runs."""
        session_id, namespace = _place(config)
        waiting = self._waiting.get(session_id)
        if waiting is None:
            yield
            return
        self._here.recorder = recorder = Recorder()
        try:
            yield
        finally:
            self._here.recorder = None
        with waiting.lock:
            waiting.writes[next(waiting.numbers)] = (namespace, recorder.statements)

    @property
    def recorder(self) -> Recorder | None:
        """What this thread's saver writes to, None where it writes to the database."""
        return getattr(self._here, "recorder", None)

    def settle(self, config: Mapping[str, Any] | None) -> None:
        """Save what waits where a reader is about to look.

        Raises:
            StoreError: It could not be saved.
        """
        if config is None:
            return
        session_id, namespace = _place(config)
        waiting = self._waiting.get(session_id)
        if waiting is None:
            return
        everywhere = "checkpoint_ns" not in config.get("configurable", {})
        with waiting.lock:
            waits = any(everywhere or place == namespace for place, _ in waiting.writes.values())
        if waits:
            with _TurnState(waiting, self._run).saving() as save, self.store.begin() as connection:
                save(connection)


def _place(config: Mapping[str, Any]) -> tuple[str, str]:
    where = config.get("configurable", {})
    return str(where.get("thread_id")), str(where.get("checkpoint_ns") or "")


@contextmanager
def unsaved_state(checkpointer: object, store: Store, session_id: str) -> Iterator[UnsavedState]:
    """Begin a turn of a session `checkpointer` keeps, if it keeps it in `store`."""
    writes = getattr(checkpointer, "state_writes", None)
    if isinstance(writes, StateWrites) and writes.store is store:
        with writes.turn(session_id) as state:
            yield state
    else:
        yield UnsavedState()
