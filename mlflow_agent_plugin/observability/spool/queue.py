"""A queue of telemetry on local disk, so that a link that is away costs no event.

Rules:
- An event is safe when `put` returns: it survives the end of the process, `kill -9` included. (A
  power cut may take the last moments: telemetry is not synchronised to disk event by event. The
  audit is, and it does not go through here.)
- An event id is taken once: putting it again changes nothing.
- Events leave in the order they came, and only by `done`: whoever reads them and dies before saying
  so leaves them where they were.
- The queue never takes more than `max_bytes` on disk. When it is full the oldest ordinary events go
  first, then, only when nothing else is left, the oldest incidents. What went is counted for good.
- An event its receiver refuses for what it is, is set aside, never dropped silently.

A file belongs to one destination and may be shared by any number of processes of one machine. It
holds what people wrote (masked): its folder and itself are readable by their owner only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import SpoolError

DEFAULT_MAX_BYTES = 512 * 1024 * 1024
MIN_MAX_BYTES = 256 * 1024
_BUSY_SECONDS = 10.0
_VERSION = 1
_WAL_PAGES = 256
_TABLES = """
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL UNIQUE,
  incident INTEGER NOT NULL,
  put_at REAL NOT NULL,
  refused TEXT,
  payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS events_to_drop ON events (incident, seq);
CREATE INDEX IF NOT EXISTS events_to_send ON events (seq) WHERE refused IS NULL;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class SpooledEvent:
    """One event that waits.

    Attributes:
        seq: Its place in the queue.
        incident: Whether it is kept longer than ordinary ones when the queue is full.
        put_at: When it came, seconds since the epoch.
    """

    seq: int
    event_id: str
    payload: bytes
    incident: bool
    put_at: float


@dataclass(frozen=True)
class SpoolState:
    """What a queue holds, and what became of the rest.

    Attributes:
        waiting: Events to deliver.
        refused: Events set aside because their receiver would not take them.
        oldest_seconds: Age of the oldest waiting event.
        bytes: Disk space in use, the log of the database not counted.
        put, delivered, dropped, dropped_incidents: Events since the file was made.
    """

    waiting: int
    refused: int
    oldest_seconds: float
    bytes: int
    max_bytes: int
    put: int
    delivered: int
    dropped: int
    dropped_incidents: int

    @property
    def full(self) -> bool:
        """Whether the next events may cost older ones."""
        return self.bytes >= self.max_bytes * 9 // 10

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def summary(self) -> str:
        """Return the state as one line for a log."""
        line = (
            f"{self.waiting} waiting, {self.refused} set aside, {self.delivered} delivered, "
            f"{self.bytes / 1e6:.1f} of {self.max_bytes / 1e6:.0f} MB"
        )
        lost = self.dropped + self.dropped_incidents
        return f"{line}; {lost} dropped for want of room" if lost else line


class SpoolQueue:
    """The queue in the file `path`; made if missing.

    Args:
        path: SQLite file.
        max_bytes: Bound of its size.

    Raises:
        SpoolError: The file cannot be opened, or is something else.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(path)
        self.max_bytes = max(int(max_bytes), MIN_MAX_BYTES)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        with self._lock, self._translated():
            self._opened()
        _queues.add(self)

    # --- writing ---------------------------------------------------------------------------------

    def put(self, event_id: str, payload: bytes, *, incident: bool = False) -> bool:
        """Keep an event; return whether it was new.

        Raises:
            SpoolError: It could not be written, or does not fit into the queue at all.
        """
        packed = zlib.compress(payload, 1)
        if len(packed) > self.max_bytes // 4:
            raise SpoolError(
                f"an event of {len(packed)} bytes does not fit into a spool of {self.max_bytes}",
                where=str(self.path),
                hint="Raise MLFLOW_AGENTS_SPOOL_MAX_MB.",
            )
        with self._lock, self._translated():
            connection = self._opened()
            with _transaction(connection):
                self._make_room(connection, len(packed))
                new = _insert(connection, event_id, packed, incident=incident)
                if new:
                    _count(connection, "put", 1)
        return new

    def done(self, events: Sequence[SpooledEvent]) -> None:
        """Remove events that arrived."""
        with self._lock, self._translated():
            connection = self._opened()
            with _transaction(connection):
                gone = _delete(connection, [event.seq for event in events])
                _count(connection, "delivered", gone)

    def set_aside(self, event: SpooledEvent, why: str) -> None:
        """Note that the receiver will not have an event; those behind it go on."""
        with self._lock, self._translated():
            connection = self._opened()
            with _transaction(connection):
                connection.execute(
                    "UPDATE events SET refused = ? WHERE seq = ?", (why[:500], event.seq)
                )

    def retry_refused(self) -> int:
        """Put the events set aside back into the queue, at their old places; return how many."""
        with self._lock, self._translated():
            connection = self._opened()
            with _transaction(connection):
                found = connection.execute(
                    "UPDATE events SET refused = NULL WHERE refused IS NOT NULL"
                )
        return int(found.rowcount)

    # --- reading ---------------------------------------------------------------------------------

    def peek(self, limit: int = 50) -> list[SpooledEvent]:
        """Return the oldest waiting events, oldest first; they stay in the queue."""
        with self._lock, self._translated():
            rows = (
                self._opened()
                .execute(
                    "SELECT seq, event_id, payload, incident, put_at FROM events "
                    "WHERE refused IS NULL ORDER BY seq LIMIT ?",
                    (limit,),
                )
                .fetchall()
            )
        return [
            SpooledEvent(seq, event_id, zlib.decompress(payload), bool(incident), put_at)
            for seq, event_id, payload, incident, put_at in rows
        ]

    def refusals(self, limit: int = 20) -> list[tuple[str, str]]:
        """Return ids of events set aside, and why."""
        with self._lock, self._translated():
            return [
                (str(event_id), str(why))
                for event_id, why in self._opened().execute(
                    "SELECT event_id, refused FROM events WHERE refused IS NOT NULL "
                    "ORDER BY seq LIMIT ?",
                    (limit,),
                )
            ]

    def is_empty(self) -> bool:
        """Return whether nothing waits."""
        with self._lock, self._translated():
            query = "SELECT 1 FROM events WHERE refused IS NULL LIMIT 1"
            return self._opened().execute(query).fetchone() is None

    def state(self) -> SpoolState:
        """Return what the queue holds."""
        with self._lock, self._translated():
            connection = self._opened()
            waiting, oldest = connection.execute(
                "SELECT count(*), min(put_at) FROM events WHERE refused IS NULL"
            ).fetchone()
            (refused,) = connection.execute(
                "SELECT count(*) FROM events WHERE refused IS NOT NULL"
            ).fetchone()
            counts = dict(connection.execute("SELECT name, value FROM counts").fetchall())
            used = _used_bytes(connection)
        return SpoolState(
            waiting=waiting,
            refused=refused,
            oldest_seconds=0.0 if oldest is None else max(0.0, time.time() - oldest),
            bytes=used,
            max_bytes=self.max_bytes,
            **{
                name: int(counts.get(name, 0))
                for name in ("put", "delivered", "dropped", "dropped_incidents")
            },
        )

    def close(self) -> None:
        """Close the file; using the queue again opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- inside ----------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _open(self.path, self.max_bytes)
        return self._connection

    def _make_room(self, connection: sqlite3.Connection, wanted: int) -> None:
        # Index and page overhead on top of the payload; SQLite itself holds the hard bound.
        need = wanted + wanted // 4 + 8192
        while _used_bytes(connection) + need > self.max_bytes:
            rows = connection.execute(
                "SELECT seq, incident FROM events ORDER BY incident, seq LIMIT 20"
            ).fetchall()
            if not rows:
                return
            kinds = {bool(incident) for _, incident in rows}
            incident = kinds == {True}
            seqs = [seq for seq, of in rows if bool(of) is incident]
            gone = _delete(connection, seqs)
            _count(connection, "dropped_incidents" if incident else "dropped", gone)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(
                f"the spool cannot be used: {error}",
                where=str(self.path),
                hint="Check the folder of MLFLOW_AGENTS_SPOOL_DIR and its free space.",
            ) from error

    def _before_fork(self) -> None:
        # SQLite loses its locks across a fork: nobody may be inside, and nothing stays open.
        self._lock.acquire()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _after_fork(self) -> None:
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


def _open(path: Path, max_bytes: int) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _to_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_PAGES * 4096}")
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        _prepare(connection, path)
        connection.execute(f"PRAGMA max_page_count={max_bytes // page}")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise SpoolError(
            f"has format {version}, this version reads {_VERSION}",
            where=str(path),
            hint="Drain it with the version that wrote it.",
        )
    if version == 0:
        with _transaction(connection):
            for statement in _TABLES.strip().split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")


def _to_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # Changing the mode ignores the busy timeout when two processes meet on a fresh file.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _insert(
    connection: sqlite3.Connection, event_id: str, packed: bytes, *, incident: bool
) -> bool:
    found = connection.execute(
        "INSERT OR IGNORE INTO events (event_id, incident, put_at, payload) VALUES (?, ?, ?, ?)",
        (event_id, int(incident), time.time(), packed),
    )
    return found.rowcount == 1


def _delete(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    found = connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in seqs])
    return int(found.rowcount)


def _count(connection: sqlite3.Connection, name: str, by: int) -> None:
    connection.execute(
        "INSERT INTO counts (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def _used_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages - free) * int(size)


_queues: weakref.WeakSet[SpoolQueue] = weakref.WeakSet()
_held: list[SpoolQueue] = []


def _all_before_fork() -> None:
    for queue in list(_queues):
        queue._before_fork()  # noqa: SLF001 - same module
        _held.append(queue)


def _all_after_fork() -> None:
    while _held:
        _held.pop()._after_fork()  # noqa: SLF001 - same module


def _all_after_fork_in_child() -> None:
    _held.clear()
    for queue in list(_queues):
        queue._after_fork_in_child()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_all_before_fork,
        after_in_parent=_all_after_fork,
        after_in_child=_all_after_fork_in_child,
    )
