"""Reads rows of the audit's tables."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, select

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.tables import audit_checkpoints
from mlflow_agent_plugin.trust.audit.chain import AuditEvent
from mlflow_agent_plugin.trust.audit.verification import AuditAnchor


def latest_anchor(connection: Connection) -> AuditAnchor | None:
    """Return the store's latest checkpoint as an anchor, None if there is none."""
    row = _latest_checkpoint(connection)
    return None if row is None else AuditAnchor(number=int(row.number), hash=str(row.hash))


def _latest_checkpoint(connection: Connection) -> Row[Any] | None:
    query = select(audit_checkpoints).order_by(audit_checkpoints.c.number.desc()).limit(1)
    return connection.execute(query).first()


def read_event(row: Row[Any]) -> AuditEvent:
    """Return the event in a row of the audit's table.

    Raises:
        StoreError: Its body is not JSON.
    """
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public accessor
    try:
        body = json.loads(values.pop("body"))
    except ValueError as error:
        raise StoreError(
            "an audit row's body is not JSON: the audit was tampered with",
            where=f"audit event {values['writer']}-{values['seq']}",
            hint="Run mlflow-agents audit verify.",
        ) from error
    return AuditEvent(body=body, **values)
