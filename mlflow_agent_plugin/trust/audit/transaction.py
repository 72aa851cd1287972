"""One write transaction of the audit, and the chain its events go on.

Rules:
- Events are hashed as they are appended and written at the end, in as few statements as may be.
- A transaction works on a copy of its writer: only a commit moves the chain.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from mlflow_agent_plugin.entities import Clock
from mlflow_agent_plugin.store.driver import DriverStatement
from mlflow_agent_plugin.store.tables import audit_events
from mlflow_agent_plugin.trust.audit.chain import (
    HEADER_FIELDS,
    AuditKind,
    AuditSubject,
    genesis,
    spell_body,
    spell_fields,
    timestamp,
)


@dataclass
class ChainWriter:
    """Where a writer's chain stands; one transaction at a time holds it."""

    name: str
    seq: int
    head: str
    sealed_seq: int
    sealed_at: datetime | None

    @classmethod
    def new(cls) -> ChainWriter:
        """Return the beginning of a chain under a name nobody else has."""
        name = uuid.uuid4().hex
        return cls(name=name, seq=0, head=genesis(name), sealed_seq=0, sealed_at=None)

    def copy(self) -> ChainWriter:
        """Return where it stands, to be moved on its own."""
        return ChainWriter(self.name, self.seq, self.head, self.sealed_seq, self.sealed_at)


class AuditTransaction:
    """A write transaction that also appends events; made by `AuditLog.transaction`.

    Attributes:
        connection: The store's connection: pass it to other writers of the store to join.
        writer: Where the chain stands once this is committed.
    """

    def __init__(self, connection: Connection, writer: ChainWriter, clock: Clock) -> None:
        self.connection = connection
        self.writer = writer
        self._clock = clock
        self._rows: list[tuple[Any, ...]] = []

    def append(
        self, kind: AuditKind | str, subject: AuditSubject | None = None, /, **data: Any
    ) -> str:
        """Add one event; arguments and result as `AuditLog.append`.

        The event exists only if the transaction commits.

        Args:
            kind: What happened.
            subject: What it is about, spelled already; then `data` is only what its body lacks.
            **data: As for `AuditLog.append`.
        """
        if subject is None:
            subject = AuditSubject(**data)
            fields = subject.body
        else:
            fields = subject.body | spell_fields(data)
        writer = self.writer
        if type(kind) is not AuditKind:
            kind = AuditKind(kind)
        own = (writer.name, writer.seq + 1, timestamp(self._clock()), kind.value)
        body = spell_body(fields)
        own_hash = subject.event_hash(own, body, writer.head)
        self._rows.append((*own, *subject.columns, body, writer.head, own_hash))
        writer.seq += 1
        writer.head = own_hash
        return f"{writer.name}-{writer.seq}"

    def write(self) -> None:
        """Write the rows of what was appended; the log does, at the end of the transaction."""
        while self._rows:
            rows, self._rows = self._rows[:_ROWS_AT_ONCE], self._rows[_ROWS_AT_ONCE:]
            insert_rows = _INSERT_EVENTS[len(rows) - 1]
            insert_rows.defer(self.connection, [value for row in rows for value in row])


_EVENT_COLUMNS = (*HEADER_FIELDS, "body", "prev_hash", "hash")
_ROW = f"({', '.join('?' for _ in _EVENT_COLUMNS)})"
_ROWS_AT_ONCE = 4
_INSERT_EVENTS = [
    DriverStatement(
        f"INSERT INTO {audit_events.name} ({', '.join(_EVENT_COLUMNS)})"  # noqa: S608 - constants
        f" VALUES {', '.join([_ROW] * rows)}"
    )
    for rows in range(1, _ROWS_AT_ONCE + 1)
]
"""Inserts one row, two rows, and so on; a refused call is two, its decision and its end."""
