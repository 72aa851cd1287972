"""Opens a store's database as its rules need it, and names what fails there.

Rules:
- SQLite: WAL, durable commits (``synchronous=FULL``), and a file only its owner can read.
- PostgreSQL: a pool of bounded size whose dead connections are found before they are used, and
  within half a minute where a server vanished without a word.
- A failure is told without the password.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.driver import end_use
from mlflow_agent_plugin.store.held import IDLE_SINCE
from mlflow_agent_plugin.store.urls import is_memory, safe_url, without_secrets

_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
               "tcp_user_timeout": 20_000}  # fmt: skip
"""A server that vanished without a word (power, network) is noticed within half a minute."""

BUSY_TIMEOUT_SECONDS = 15.0
"""How long a write transaction waits for the others before it gives up."""

WAL_PAGES = 4096
"""Pages SQLite's log may grow by before a commit also copies them into the database (16 MiB).

By its default of 1,000 one in fifty tool calls would wait for that, and the same pages would be
copied again and again. Much more is no gain: while the log's file grows, each commit takes longer.
"""

IDLE_CHECK_SECONDS = 5.0
"""A PostgreSQL connection unused for this long is tried before it is trusted."""

CONNECT_TIMEOUT_SECONDS = 10

CONNECTION_SECONDS = 1800
"""How old a connection to PostgreSQL becomes; what the server keeps for it goes with it."""

POOL_WAIT_SECONDS = 10.0
"""How long a thread waits for a connection to PostgreSQL before its request is refused."""


def make_private(url: URL) -> None:
    """Make a new SQLite file readable by this user only: it holds what agents were asked to do."""
    path = url.database
    if not url.drivername.startswith("sqlite") or is_memory(url) or not path:
        return
    if path.startswith("file:") or os.name != "posix":
        return
    # An existing file is left alone, and not even opened: closing it again would drop the locks
    # SQLite holds on it. Whatever else is wrong with the path, SQLite says it better.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def make_engine(url: URL) -> Engine:
    """Return the engine of a database; it connects when first used."""
    if url.drivername.startswith("sqlite"):
        engine = create_engine(
            url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    size = Settings.from_env().store_pool
    engine = create_engine(
        url,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "client_encoding": "utf8",
            **_KEEPALIVES,
        },
        pool_recycle=CONNECTION_SECONDS,
        pool_size=size,
        max_overflow=size,
        pool_timeout=POOL_WAIT_SECONDS,
    )
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "checkout", _try_if_idle)
    event.listen(engine, "rollback", _note_rollback)
    event.listen(engine, "reset", _note_reset)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    """Turn off the driver's own BEGIN, and set WAL and durable commits."""
    del record
    connection.isolation_level = None
    cursor = connection.cursor()
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Changing the mode ignores the busy timeout when two processes meet on a fresh file.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    statement = connection.get_execution_options().get("agents_begin", "BEGIN")
    if not statement:  # `GroupCommit` begins and ends its transactions itself
        return
    # Straight to the driver: SQLAlchemy's own way costs more than the statement.
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.execute(statement)


def _note_return(connection: object, record: Any) -> None:
    del connection
    record.info["returned"] = record.info.pop(IDLE_SINCE, None) or time.monotonic()


def _try_if_idle(connection: Any, record: Any, proxy: object) -> None:
    """Try a connection that was idle for long; a dead one is replaced before anybody uses it."""
    del proxy
    returned = record.info.get("returned")
    if returned is None or time.monotonic() - returned < IDLE_CHECK_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.commit()  # a rollback would drop what is prepared
    except Exception as error:
        raise DisconnectionError from error


def _note_rollback(connection: Connection) -> None:
    if not connection.invalidated:
        raw: Any = connection.connection.driver_connection
        end_use(connection.info, rolled_back=bool(raw.info.transaction_status))


def _note_reset(connection: Any, record: Any, state: object) -> None:
    """Note that a connection comes back, and is rolled back if that is amid a transaction."""
    del state
    if connection is not None:
        end_use(record.info, rolled_back=bool(connection.info.transaction_status))


def store_error(error: BaseException, url: URL) -> StoreError:
    """Return what a database's failure is to callers."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = without_secrets(str(cause), url).strip()
    first = text.splitlines()[0] if text else type(cause).__name__
    return StoreError(first, where=safe_url(url), hint=_hint(first))


_HINTS = {
    "unable to open database file": "Check that the folder exists and may be written.",
    "readonly": "Give the process write permission on the file and its folder.",
    "read-only": "Connect to a primary, with a user that may write.",
    "not a database": "The file is damaged or something else: restore it from a backup.",
    "malformed": "The file is damaged: restore it from a backup.",
    "locked": "Another process held the write lock for too long.",
    "connection failed": "Check that the server runs and accepts this user.",
}


def _hint(text: str) -> str | None:
    return next((hint for sign, hint in _HINTS.items() if sign in text), None)
