"""Durable session state: LangGraph's own checkpointers in the runtime store's database.

Rules:
- Only LangGraph's serialiser touches the state, with pickle off: what a database row says can make
  messages, never run code.
- One connection per process and store; sqlite waits for another process's write instead of failing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from mlflow_agent_plugin.store import Store


def open_checkpointer(store: Store) -> BaseCheckpointSaver[Any]:
    """Return the checkpointer that keeps sessions in `store`'s database.

    Raises:
        ConfigError: The store's kind of database has no checkpointer installed.
        StoreError: The database cannot be opened.
    """
    dialect = store.engine.dialect.name
    if dialect == "sqlite":
        return _sqlite(store)
    if dialect == "postgresql":
        return _postgres(store)
    raise ConfigError(
        f"sessions cannot be kept in {dialect!r}",
        where="MLFLOW_AGENTS_STORE_URI",
        hint="Use a sqlite:/// or postgresql:// URL.",
    )


def _sqlite(store: Store) -> BaseCheckpointSaver[Any]:
    import sqlite3

    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.checkpoint.sqlite import SqliteSaver

    path = store.engine.url.database or ":memory:"
    try:
        connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
        saver = SqliteSaver(connection, serde=JsonPlusSerializer(pickle_fallback=False))
        saver.setup()
    except sqlite3.Error as error:
        raise StoreError(f"sessions cannot be kept: {error}", where=path) from error
    return saver


def _postgres(store: Store) -> BaseCheckpointSaver[Any]:
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
        from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool
    except ImportError as error:
        raise ConfigError(
            "PostgreSQL support is not installed",
            hint="pip install 'mlflow-agent-plugin[postgres]'",
        ) from error

    url = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        pool: Any = ConnectionPool(
            url,
            min_size=1,
            max_size=8,
            kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
            open=True,
        )
        saver = PostgresSaver(pool, serde=JsonPlusSerializer(pickle_fallback=False))
        saver.setup()
    except Exception as error:
        raise StoreError("sessions cannot be kept: PostgreSQL does not answer") from error
    return saver


def close_checkpointer(saver: BaseCheckpointSaver[Any]) -> None:
    """Close the connections `open_checkpointer` made."""
    connection = getattr(saver, "conn", None)
    close = getattr(connection, "close", None)
    if callable(close):
        close()
