"""One database connection pool for the runtime store, on sqlite or PostgreSQL.

Rules:
- `begin` is a write transaction: it commits at the end of the block or changes nothing. On sqlite
  it takes the write lock at once (BEGIN IMMEDIATE): it never fails half-way for want of it; the
  threads of one process share a connection and, where several wait, a commit (`group_commit`).
- `read` sees one consistent state (sqlite: WAL, PostgreSQL: REPEATABLE READ), waits for no writer
  and on PostgreSQL cannot write.
- Commits are durable before they return (sqlite ``synchronous=FULL``): an audit event that was
  acknowledged survives a power cut, and "event before effect" means something.
- Forking is safe between transactions: sqlite connections are closed before a fork, because SQLite
  loses its locks across one, and a child never uses the parent's connections.
- Every database failure leaves as one `StoreError` that names the store without its password.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.errors import AgentError, StoreError
from mlflow_agent_plugin.store.connections import (
    BUSY_TIMEOUT_SECONDS,
    make_engine,
    make_private,
    store_error,
)
from mlflow_agent_plugin.store.group_commit import GroupCommit, NoTurnError
from mlflow_agent_plugin.store.held import Held, HeldConnections
from mlflow_agent_plugin.store.schema import ensure_schema
from mlflow_agent_plugin.store.urls import (
    is_memory,
    parse_store_url,
    safe_url,
    shared_memory_url,
)

if TYPE_CHECKING:
    from types import TracebackType


_Lent = TypeVar("_Lent")


class Store:
    """The runtime store; make it with `Store.open`.

    Attributes:
        uri: The database URL for people to read: without password.
        url: The same for programs; its ``str()`` hides the password too.
        engine: The SQLAlchemy engine; use `begin` and `read` for transactions.
    """

    def __init__(self, url: URL) -> None:
        self.uri = safe_url(url)
        self.url = url
        self._memory = is_memory(url)
        self._here = threading.local()
        self._broken: str | None = None
        self._forked_in_use = False
        self._held = False
        real = shared_memory_url(url) if self._memory else url
        make_private(url)
        self.engine = make_engine(real)
        self._writer = self.engine.execution_options(agents_begin="BEGIN IMMEDIATE")
        self._group = self._new_group()
        self._held_connections: HeldConnections | None = None
        if self._group is None:
            self._held_connections = HeldConnections(self.engine)
            # A store nobody closed gives back what its writers keep, at the latest at exit.
            weakref.finalize(self, self._held_connections.close)
        self._reader = self.engine
        if self.dialect == "postgresql":
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        # A memdb database lives as long as one connection to it.
        self._anchor: Any = self.engine.raw_connection() if self._memory else None
        _stores.add(self)

    @classmethod
    def open(cls, uri: str | None = None) -> Store:
        """Open the store and bring its schema up to date.

        Args:
            uri: Database URL; default: ``MLFLOW_AGENTS_STORE_URI``.

        Raises:
            ConfigError: The URI is malformed or names an unsupported database.
            StoreError: The database is unreachable, read-only, corrupt, or of a newer version.
        """
        url = parse_store_url(Settings.from_env().store_uri if uri is None else uri)
        try:
            store = cls(url)
        except ImportError as error:
            raise StoreError(
                f"the database driver is not installed: {error}",
                where=safe_url(url),
                hint="Install mlflow-agent-plugin[postgres].",
            ) from error
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise store_error(error, url) from error
        try:
            with store._translated():
                ensure_schema(store._reader, store._writer, store.uri)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def dialect(self) -> str:
        """The kind of database: ``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @property
    def is_writing(self) -> bool:
        """True while this thread runs a write transaction of this store."""
        return getattr(self._here, "writing", False)

    def begin(
        self, connection: Connection | None = None
    ) -> AbstractContextManager[Connection, bool | None]:
        """Run a write transaction: all of the block is committed, or nothing.

        Args:
            connection: Join this transaction (of this store) instead of starting one; its owner
                commits.

        Raises:
            StoreError: The database failed, or others held the write lock for too long.
            RuntimeError: The thread already runs a write transaction and did not pass it on.
        """
        return _WriteBlock(self) if connection is None else nullcontext(connection)

    @contextmanager
    def read(self, connection: Connection | None = None) -> Iterator[Connection]:
        """Run a read transaction; arguments and errors as `begin`."""
        if connection is not None:
            yield connection
            return
        with self._translated(), self.lend(self._reader.connect) as opened, opened.begin():
            yield opened

    def lend(self, borrow: Callable[[], _Lent]) -> _Lent:
        """Take a connection out of the engine's pool by `borrow`, and return it.

        Whoever takes one past this may wait for one that is merely kept for the next writer.
        """
        if self._held_connections is None:
            return borrow()
        with self._held_connections.wanted():
            return borrow()

    def close(self) -> None:
        """Close every idle connection; the store can be used again and reconnects then.

        An in-memory store is gone afterwards.
        """
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        if self._group is not None:
            self._group.close()
        if self._held_connections is not None:
            self._held_connections.close()
        self.engine.dispose()

    def __enter__(self) -> Store:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _new_group(self) -> GroupCommit | None:
        if self.dialect != "sqlite":
            return None
        return GroupCommit(self.engine.execution_options(agents_begin=""))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self._check_usable()
        try:
            yield
        except _DATABASE_ERRORS as error:
            self._raise_translated(error)

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise StoreError(self._broken, where=self.uri)

    def _raise_translated(self, error: BaseException) -> NoReturn:
        if isinstance(error, NoTurnError):
            raise StoreError(
                "another thread holds the write lock for too long", where=self.uri
            ) from error
        if isinstance(error.__cause__, AgentError):  # raised by a column type of ours
            raise error.__cause__ from None
        raise store_error(error, self.url) from error

    def _before_fork(self) -> None:
        if self._group is None or self._memory:
            return
        self._held = self._group.hold()
        self._forked_in_use = not self._held or _checked_out(self.engine) > 0
        self.engine.dispose()

    def _after_fork_in_parent(self) -> None:
        if self._held and self._group is not None:
            self._held = False
            self._group.let_go()

    def _after_fork_in_child(self) -> None:
        self._held = False
        self._here = threading.local()
        if self._group is not None:
            self._group = self._new_group()
        if self._held_connections is not None:
            self._held_connections.forget()
        if self._forked_in_use:
            self._broken = (
                "the process forked during a transaction, and SQLite cannot be used in a child "
                "after that; fork before or between transactions"
            )
        if not self._memory:
            self.engine.dispose(close=False)


_DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, NoTurnError)


class _WriteBlock(AbstractContextManager[Connection, "bool | None"]):
    """One write transaction: of a held connection, or on sqlite a block of the `GroupCommit`.

    SQLite's own waiting is polling with sleeps of up to 100 ms: threads of one process queue for
    one connection instead, and only processes compete for the database lock.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._group = store._group  # noqa: SLF001 - same module
        self._block: Any = None
        self._held: Held

    def __enter__(self) -> Connection:
        store = self._store
        store._check_usable()  # noqa: SLF001 - same module
        if store.is_writing:
            raise RuntimeError("nested write transaction: pass the open connection to begin()")
        try:
            if self._group is None:
                assert store._held_connections is not None  # noqa: SLF001 - same module
                self._held = store._held_connections.take()  # noqa: SLF001 - same module
                opened = self._held.connection
            else:
                self._block, opened = self._group.enter(BUSY_TIMEOUT_SECONDS)
        except _DATABASE_ERRORS as error:
            store._raise_translated(error)  # noqa: SLF001 - same module
        store._here.writing = True  # noqa: SLF001 - same module
        return opened

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        store = self._store
        store._here.writing = False  # noqa: SLF001 - same module
        try:
            if self._group is not None:
                self._group.leave(self._block, failed=kind is not None)
            else:
                assert store._held_connections is not None  # noqa: SLF001 - same module
                store._held_connections.end(self._held, failed=kind is not None)  # noqa: SLF001 - same module
        except _DATABASE_ERRORS as failure:
            store._raise_translated(failure)  # noqa: SLF001 - same module
        if isinstance(error, _DATABASE_ERRORS):
            store._raise_translated(error)  # noqa: SLF001 - same module


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _before_fork() -> None:
    for store in list(_stores):
        store._before_fork()  # noqa: SLF001 - same module


def _after_fork_in_parent() -> None:
    for store in list(_stores):
        store._after_fork_in_parent()  # noqa: SLF001 - same module


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._after_fork_in_child()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def _checked_out(engine: Engine) -> int:
    checkedout = getattr(engine.pool, "checkedout", None)
    return int(checkedout()) if checkedout is not None else 0
