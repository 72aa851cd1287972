"""Which revision a database is at, and bringing it to the newest.

Rules:
- A database that is up to date costs one SELECT; Alembic is imported only to upgrade.
- Upgrading happens inside one write transaction behind the database's own lock: two processes that
  open a fresh store at once take turns, and a crash half-way leaves the old schema whole.
- A revision this code does not know was written by a newer version: refused, nothing touched.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.tables import REVISIONS, VERSION_TABLE

_POSTGRES_LOCK = 0x6D6C666C6F77  # any fixed number; every process must use the same

# Alembic keeps its running environment in a module global: one upgrade at a time in a process.
_upgrade_lock = threading.Lock()


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision, None if the store's tables were never made."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()  # noqa: S608 - a constant
    return None if row is None else str(row[0])


def ensure_schema(reader: Engine, writer: Engine, where: str) -> None:
    """Bring the database to the newest revision, if it is not there.

    Args:
        reader: Engine whose transactions only read.
        writer: Engine whose transactions take the write lock when they begin.
        where: The store's URL as people may read it.

    Raises:
        StoreError: The database was written by a newer version of this package.
    """
    with reader.connect() as connection:
        revision = current_revision(connection)
    if revision == REVISIONS[-1]:
        return
    _refuse_unknown(revision, where)
    with _upgrade_lock, writer.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
        revision = current_revision(connection)  # another process may have been quicker
        _refuse_unknown(revision, where)
        if revision != REVISIONS[-1]:
            upgrade(connection)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision` inside the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _refuse_unknown(revision: str | None, where: str) -> None:
    if revision is not None and revision not in REVISIONS:
        raise StoreError(
            f"the store is at schema revision {revision}, which this version does not know "
            f"(newest known: {REVISIONS[-1]})",
            where=where,
            hint="It was written by a newer mlflow-agent-plugin: install that version.",
        )
