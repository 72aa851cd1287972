"""What all readers and writers of the registry's tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, select

from mlflow_agent_plugin.registry.seal import Sealer


class Rows:
    """The tables as one transaction sees them.

    Args:
        connection: Of the registry's database.
        workspace: MLflow workspace of all that follows.
        now: Time of whatever is written.
    """

    def __init__(
        self, connection: Connection, workspace: str, *, now: datetime, sealer: Sealer | None = None
    ) -> None:
        self.connection = connection
        self.workspace = workspace
        self.now = now
        self._sealer = sealer or Sealer()

    def _sealed(self, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: value for name, value in row.items() if name != "seal"}
        return {**plain, "seal": self._sealer.seal(table.name, plain)}

    def _one(self, table: Table, *conditions: Any, workspace: bool = True) -> dict[str, Any] | None:
        rows = self._all(table, *conditions, workspace=workspace)
        return rows[0] if rows else None

    def _all(
        self, table: Table, *conditions: Any, order: Any = None, workspace: bool = True
    ) -> Sequence[dict[str, Any]]:
        query = select(table).where(*conditions)
        if workspace:
            query = query.where(table.c.workspace == self.workspace)
        if order is not None:
            query = query.order_by(order)
        return [dict(row) for row in self.connection.execute(query).mappings()]
