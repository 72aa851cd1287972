"""Statements that run at every tool call, handed to the database driver as text.

Building and compiling a statement, and wrapping its result, costs several times what running it
does. Everything that does not run at every call goes through SQLAlchemy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


class DriverStatement:
    """One statement that returns no rows.

    Args:
        text: SQL with ``?`` for each parameter and no other question mark.
    """

    def __init__(self, text: str) -> None:
        self._texts: Mapping[str, str] = {
            "sqlite": text,
            "postgresql": text.replace("?", "%s"),
        }

    def run(self, connection: Connection, parameters: Sequence[Any]) -> int:
        """Run it and return how many rows it changed."""
        dialect = connection.dialect
        statement = self._texts[dialect.name]
        raw: Any = connection.connection.dbapi_connection
        try:
            # `execute` on the connection itself is both drivers' own short way.
            changed: int = raw.execute(statement, parameters).rowcount
        except sqlite3.Error:
            raise
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError(statement, None, error) from error
        return changed


def bind_time(moment: datetime, connection: Connection) -> Any:
    """Return a time as `UtcDateTime` binds it."""
    utc = moment.astimezone(timezone.utc)
    if connection.dialect.name == "sqlite":
        return utc.replace(tzinfo=None).isoformat(" ", "microseconds")
    return utc
