"""The registry's rows, to read by."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.registry.overview.rows import MAX_PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from sqlalchemy import Connection


def open_store(client: MlflowClient | None) -> Any:
    """Return the gated store of this process.

    Raises:
        RequestError: It holds none.
    """
    from mlflow_agent_plugin.registry.api import _client, _own_store

    store = _own_store(_client(client))
    if store is None:
        raise RequestError(
            "this process does not hold a gated registry",
            hint="Use a registry URI that starts with agents+ and names the database.",
        )
    return store


@contextmanager
def reading(client: MlflowClient | None) -> Iterator[tuple[Connection, str]]:
    """Give a connection to read by, and the workspace."""
    store = open_store(client)
    with store._transactions.reading() as connection:  # noqa: SLF001 - the registry's own
        yield connection, store._get_active_workspace()  # noqa: SLF001 - MLflow's


def current_epoch(connection: Connection, workspace: str, name: str) -> int:
    """Return which life of a model's name this is, 0 if it was never gated."""
    from sqlalchemy import select

    from mlflow_agent_plugin.registry import tables

    gates = tables.gates
    query = select(gates.c.epoch).where(gates.c.workspace == workspace, gates.c.name == name)
    return int(connection.execute(query).scalar() or 0)


def bounded(limit: int) -> int:
    """Return a page size between 1 and the largest."""
    return max(1, min(limit, MAX_PAGE))


def now() -> datetime:
    """Return the time."""
    from mlflow_agent_plugin.entities import utc_now

    return utc_now()
