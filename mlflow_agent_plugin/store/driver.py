"""Statements that run at every tool call, handed to the database driver as text.

Building and compiling a statement, and wrapping its result, costs several times what running it
does. Everything that does not run at every call goes through SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from datetime import datetime, timezone
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from mlflow_agent_plugin.store.pipeline import Pipeline

_PIPELINE = "agents_pipeline"


class UnexpectedRowsError(Exception):
    """A statement did not change the row it was expected to: nothing of the block is written."""


class DriverStatement:
    """One statement that returns no rows, of a write transaction.

    On PostgreSQL each answer that is waited for is a round trip. `expect` and `defer` wait for
    none: their statements go to the server with the commit.

    Args:
        text: SQL with ``?`` for each parameter and no other question mark.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        numbers = count(1)
        parts = text.split("?")
        numbered = "".join(f"{part}${next(numbers)}" for part in parts[:-1]) + parts[-1]
        self._numbered = numbered.encode()
        # Only an error keeps the server from going on to the COMMIT that is right behind.
        self._strict = (
            f"WITH changed AS ({numbered} RETURNING 1)"  # noqa: S608 - a constant of the caller's
            " SELECT 1 / count(*) FROM changed"
        ).encode()

    def run(self, connection: Connection, parameters: Sequence[Any]) -> int:
        """Run it and return how many rows it changed."""
        if connection.dialect.name == "postgresql":
            try:
                return pipeline_of(connection).run(self._numbered, parameters)
            except connection.dialect.loaded_dbapi.Error as error:
                raise DBAPIError(self._text, None, error) from error
        raw: Any = connection.connection.dbapi_connection
        # `execute` on the connection itself is the driver's own short way.
        changed: int = raw.execute(self._text, parameters).rowcount
        return changed

    def defer(self, connection: Connection, parameters: Sequence[Any]) -> None:
        """Run it at the latest with the commit, where it may fail; nobody asks what it changed."""
        if connection.dialect.name == "postgresql":
            self._defer(connection, self._numbered, parameters, None)
        else:
            self.run(connection, parameters)

    def expect(
        self, connection: Connection, parameters: Sequence[Any], otherwise: Exception
    ) -> None:
        """Run it as `defer`; it has to change a row.

        Raises:
            Exception: `otherwise`, here or at the end of the block, if it changed none: nothing of
                the block is written.
        """
        if connection.dialect.name == "postgresql":
            self._defer(connection, self._strict, parameters, otherwise)
        elif self.run(connection, parameters) == 0:
            raise otherwise

    def _defer(
        self,
        connection: Connection,
        text: bytes,
        parameters: Sequence[Any],
        otherwise: Exception | None,
    ) -> None:
        try:
            pipeline_of(connection).defer(text, parameters, otherwise)
        except connection.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(self._text, None, error) from error


def pipeline_of(connection: Connection) -> Pipeline:
    """Return the pipeline of a PostgreSQL connection; it lasts as long as the server's side."""
    info = connection.info
    pipeline: Pipeline | None = info.get(_PIPELINE)
    if pipeline is None:
        from mlflow_agent_plugin.store.pipeline import Pipeline

        pipeline = info[_PIPELINE] = Pipeline(connection.connection.driver_connection)
    return pipeline


def end_pipeline(connection: Connection, *, failed: bool) -> None:
    """Commit or roll back a transaction of a PostgreSQL connection.

    Raises:
        DBAPIError: It could not be committed: roll back. Or the connection broke.
    """
    try:
        if failed:
            pipeline_of(connection).rollback()
        else:
            pipeline_of(connection).commit()
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError("ROLLBACK" if failed else "COMMIT", None, error) from error


def is_between_transactions(connection: Connection) -> bool:
    """Tell whether a PostgreSQL connection has no transaction open and none deferred."""
    return pipeline_of(connection).is_idle


def end_use(info: MutableMapping[Any, Any], *, rolled_back: bool) -> None:
    """Clear a connection's pipeline of what a transaction left there that ended another way.

    Args:
        info: What SQLAlchemy keeps with the connection.
        rolled_back: By psycopg, which may drop prepared statements then.
    """
    pipeline: Pipeline | None = info.get(_PIPELINE)
    if pipeline is not None:
        pipeline.drop()
        if rolled_back:
            pipeline.forget()


def bind_time(moment: datetime, connection: Connection) -> Any:
    """Return a time as `UtcDateTime` binds it."""
    utc = moment.astimezone(timezone.utc)
    if connection.dialect.name == "sqlite":
        return utc.replace(tzinfo=None).isoformat(" ", "microseconds")
    return utc
