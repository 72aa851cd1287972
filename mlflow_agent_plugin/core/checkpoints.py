"""Durable session state: LangGraph's own checkpointers in the runtime store's database.

Rules:
- What a running turn writes waits for the transactions of its audit (`core.unsaved`).
- Only LangGraph's serialiser touches the state, with pickle off: what a database row says can make
  messages, never run code.
- On PostgreSQL the checkpointer borrows from the store's own pool: one pool to size, one way to
  find a dead connection. Turns of several sessions read and write side by side.
- On sqlite it has one connection per process, which waits for another process's write.
- A database that fails is a `StoreError`, as everywhere, and no failure of the agent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.unsaved import Statement, StateWrites
from mlflow_agent_plugin.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from sqlalchemy import Connection

    from mlflow_agent_plugin.store import Store

_SETUP_LOCK = 0x61_67_65_6E_74  # any number nobody else uses
_SETUP_SECONDS = 120.0
_TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
_HINT = "The turn was not finished; send it again when the database answers."


def open_checkpointer(store: Store) -> BaseCheckpointSaver[Any]:
    """Return the checkpointer that keeps sessions in `store`'s database.

    Raises:
        ConfigError: The store's kind of database has no checkpointer installed.
        StoreError: The database cannot be opened.
    """
    dialect = store.engine.dialect.name
    openers = {"sqlite": _sqlite, "postgresql": _postgres}
    if dialect not in openers:
        raise ConfigError(
            f"sessions cannot be kept in {dialect!r}",
            where="MLFLOW_AGENTS_STORE_URI",
            hint="Use a sqlite:/// or postgresql:// URL.",
        )
    saver: BaseCheckpointSaver[Any] = openers[dialect](store)
    return saver


def _in_turns(base: Any) -> Any:
    """Return a subclass of a LangGraph saver that keeps what running turns write.

    Its `state_writes` says for how long; where they record, `base` must not use the database.
    """

    class InTurns(base):  # type: ignore[misc] # either of two savers
        state_writes: StateWrites

        def put(self, config: Any, *given: Any, **named: Any) -> Any:
            with self.state_writes.kept(config):
                return super().put(config, *given, **named)

        def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            with self.state_writes.kept(config):
                super().put_writes(config, writes, task_id, task_path)

        def get_tuple(self, config: Any) -> Any:
            self.state_writes.settle(config)
            return super().get_tuple(config)

        def list(self, config: Any, **how: Any) -> Any:
            self.state_writes.settle(config)
            return super().list(config, **how)

        def get_delta_channel_history(self, *, config: Any, channels: Any) -> Any:
            self.state_writes.settle(config)
            return super().get_delta_channel_history(config=config, channels=channels)

    return InTurns


def _sqlite(store: Store) -> Any:
    import sqlite3

    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.checkpoint.sqlite import SqliteSaver

    from mlflow_agent_plugin.store.connections import WAL_PAGES

    class Saver(SqliteSaver):
        """LangGraph's, whose failures are the store's."""

        state_writes: StateWrites

        @contextmanager
        def cursor(self, transaction: bool = True) -> Iterator[Any]:  # noqa: FBT001, FBT002 - as its base
            if (recorder := self.state_writes.recorder) is not None:
                yield recorder
                return
            try:
                with super().cursor(transaction) as opened:
                    yield opened
            except sqlite3.Error as error:
                raise _store_error(error, store) from error

    def run(connection: Connection, statements: Sequence[Statement]) -> None:
        raw: Any = connection.connection.dbapi_connection
        for each in statements:
            (raw.executemany if each.many else raw.execute)(each.text, each.parameters)

    try:
        connection = sqlite3.connect(
            _sqlite_path(store), uri=True, check_same_thread=False, timeout=30
        )
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        saver = _in_turns(Saver)(connection, serde=JsonPlusSerializer(pickle_fallback=False))
        saver.state_writes = StateWrites(store, run)
        saver.setup()
    except sqlite3.Error as error:
        raise StoreError(f"sessions cannot be kept: {error}", where=store.uri) from error
    return saver


def _sqlite_path(store: Store) -> str:
    """Return the name by which the driver opens the very database of `store`."""
    url = store.engine.url
    return f"{url.database}?vfs={url.query['vfs']}" if "vfs" in url.query else str(url.database)


def _postgres(store: Store) -> Any:
    try:
        import psycopg
        from langgraph.checkpoint.postgres import PostgresSaver
        from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
        from psycopg.rows import dict_row
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise ConfigError(
            "PostgreSQL support is not installed",
            hint="pip install 'mlflow-agent-plugin[postgres]'",
        ) from error

    class Saver(PostgresSaver):
        """LangGraph's, on connections of the store's pool."""

        state_writes: StateWrites

        @contextmanager
        def _cursor(self, *, pipeline: bool = False) -> Iterator[Any]:
            if (recorder := self.state_writes.recorder) is not None:
                yield recorder
                return
            try:
                borrowed = store.lend(store.engine.raw_connection)
            except (SQLAlchemyError, psycopg.Error) as error:
                raise _store_error(error, store) from error
            connection: Any = borrowed.driver_connection
            try:
                connection.autocommit = True
                if pipeline and self.supports_pipeline:
                    with (
                        connection.pipeline(),
                        connection.cursor(binary=True, row_factory=dict_row) as opened,
                    ):
                        yield opened
                elif pipeline:
                    with (
                        connection.transaction(),
                        connection.cursor(binary=True, row_factory=dict_row) as opened,
                    ):
                        yield opened
                else:
                    with connection.cursor(binary=True, row_factory=dict_row) as opened:
                        yield opened
                connection.autocommit = False
            except psycopg.Error as error:
                borrowed.invalidate(error)
                if connection.broken:
                    store.engine.dispose()  # the others were of the same server
                raise _store_error(error, store) from error
            except BaseException:
                borrowed.invalidate()
                raise
            finally:
                borrowed.close()

    def run(connection: Connection, statements: Sequence[Statement]) -> None:
        raw: Any = connection.connection.driver_connection
        try:
            with (
                raw.pipeline() if saver.supports_pipeline else nullcontext(),
                raw.cursor(binary=True) as opened,
            ):
                for each in statements:
                    (opened.executemany if each.many else opened.execute)(
                        each.text, each.parameters
                    )
        except psycopg.Error as error:
            raise _store_error(error, store) from error

    try:
        # The connections are the pool's: there is none to hand over.
        saver = _in_turns(Saver)(None, serde=JsonPlusSerializer(pickle_fallback=False))
        saver.state_writes = StateWrites(store, run)
        if not _is_set_up(store, len(saver.MIGRATIONS)):
            with _alone(store):
                saver.setup()
    except (SQLAlchemyError, psycopg.Error) as error:
        raise _store_error(error, store) from error
    return saver


def _is_set_up(store: Store, migrations: int) -> bool:
    """Say whether the tables are there: making them again takes rights a server need not have."""
    from sqlalchemy import inspect, text

    with store.lend(store.engine.connect) as connection:
        if not inspect(connection).has_table("checkpoint_migrations"):
            return False
        found = connection.execute(text("SELECT max(v) FROM checkpoint_migrations")).scalar()
    return found is not None and int(found) >= migrations - 1


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Let one process at a time make LangGraph's tables: two that build an index deadlock."""
    borrowed = store.lend(store.engine.raw_connection)
    connection: Any = borrowed.driver_connection
    try:
        connection.autocommit = True
        deadline = time.monotonic() + _SETUP_SECONDS
        # Not the lock that waits: a waiting statement is what a concurrent index build waits for.
        while not connection.execute(_TRY_LOCK, (_SETUP_LOCK,)).fetchone()[0]:
            if time.monotonic() > deadline:
                raise StoreError("another process is making its tables", where=store.uri)
            time.sleep(0.1)
        try:
            yield
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))
    finally:
        borrowed.invalidate()  # it is not as the pool's others are
        borrowed.close()


def _store_error(error: Exception, store: Store) -> StoreError:
    from mlflow_agent_plugin.store.urls import without_secrets

    cause = getattr(error, "orig", None) or error
    text = without_secrets(str(cause), store.url).strip().splitlines()
    problem = text[0] if text else type(cause).__name__
    return StoreError(f"the session cannot be kept: {problem}", where=store.uri, hint=_HINT)


def close_checkpointer(saver: BaseCheckpointSaver[Any]) -> None:
    """Close the connections `open_checkpointer` made."""
    connection = getattr(saver, "conn", None)
    close = getattr(connection, "close", None)
    if callable(close):
        close()
