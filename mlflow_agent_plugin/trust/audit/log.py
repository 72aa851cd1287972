"""Writing the audit, and reading it back.

Rules:
- Append only. An event is durable when `append` returns; if it cannot be written, `append` raises
  and the caller must not go on with what it wanted to record.
- `transaction` writes events and other rows of the store together: both or neither.
- Signed checkpoints are written with a writer's first event, then every `checkpoint_every` events
  or `checkpoint_seconds`, whichever comes first, and on `close`.
- After a fork, or when a commit's fate is unknown, a log goes on as a new writer: a chain never
  branches.

What `verify` can and cannot detect stands in `trust.audit.verify`.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, text

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints, audit_events
from mlflow_agent_plugin.trust.audit.chain import (
    CHECKPOINT_GENESIS,
    HEADER_FIELDS,
    AuditEvent,
    AuditKind,
    checkpoint_hash,
    encode_signature,
    event_hash,
    genesis,
    spell_body,
    timestamp,
)
from mlflow_agent_plugin.trust.audit.verification import AuditAnchor, AuditVerification
from mlflow_agent_plugin.trust.audit.verify import verify_audit
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey
from mlflow_agent_plugin.trust.spelling import spell_field

_CHECKPOINT_LOCK = 0x617564697400  # PostgreSQL: one checkpoint at a time; any fixed number


@dataclass
class _Writer:
    """Where a writer's chain stands; changed only under the log's lock, after a commit."""

    name: str
    seq: int
    head: str
    sealed_seq: int
    sealed_at: datetime | None

    @classmethod
    def new(cls) -> _Writer:
        name = uuid.uuid4().hex
        return cls(name=name, seq=0, head=genesis(name), sealed_seq=0, sealed_at=None)


class AuditTransaction:
    """A write transaction that also appends events; made by `AuditLog.transaction`.

    Attributes:
        connection: The store's connection: pass it to other writers of the store to join.
    """

    def __init__(self, connection: Connection, writer: _Writer, clock: Clock) -> None:
        self.connection = connection
        self._writer = writer
        self._clock = clock

    def append(self, kind: AuditKind | str, **data: Any) -> str:
        """Add one event; arguments and result as `AuditLog.append`.

        The event exists only if the transaction commits.
        """
        actor = data.pop("actor", None)
        if isinstance(actor, Actor):
            data.setdefault("tenant", actor.tenant)
            data["actor"] = actor.to_dict()
            actor = actor.user
        writer = self._writer
        header: dict[str, Any] = {
            "writer": writer.name,
            "seq": writer.seq + 1,
            "ts": timestamp(self._clock()),
            "kind": AuditKind(kind).value,
            "request_id": spell_field(data.pop("request_id", None)),
            "session_id": spell_field(data.pop("session_id", None)),
            "tenant": spell_field(data.pop("tenant", None)),
            "actor": spell_field(actor),
            "agent": spell_field(data.pop("agent", None)),
            "agent_digest": spell_field(data.pop("agent_digest", None)),
        }
        body = spell_body(data)
        own_hash = event_hash(header, body, writer.head)
        row = {**header, "body": body, "prev_hash": writer.head, "hash": own_hash}
        statement = _INSERT_EVENT[self.connection.dialect.name]
        self.connection.exec_driver_sql(statement, tuple(row[name] for name in _EVENT_COLUMNS))
        writer.seq += 1
        writer.head = own_hash
        return f"{writer.name}-{writer.seq}"


class AuditLog:
    """The audit of a store, as one writer sees it.

    Args:
        store: Where it is kept.
        clock: Time of events.
        key: Signs checkpoints; default: this machine's key.
        checkpoint_every: Events between two checkpoints, at most.
        checkpoint_seconds: Time between two checkpoints of a busy writer, at most.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = utc_now,
        key: SigningKey | None = None,
        checkpoint_every: int = 100,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._checkpoint_every = checkpoint_every
        self._checkpoint_seconds = checkpoint_seconds
        self._lock = threading.Lock()
        self._writer = _Writer.new()
        _logs.add(self)

    def append(self, kind: AuditKind | str, **data: Any) -> str:
        """Record one event, durably.

        Args:
            kind: What happened.
            **data: `request_id`, `session_id`, `tenant`, `actor` (an `Actor` or a user name),
                `agent` and `agent_digest` can be searched for; the rest becomes the body.

        Returns:
            The event's id.

        Raises:
            ValueError: `kind` is not an `AuditKind`.
            StoreError: It could not be written: do not go on.
        """
        with self.transaction() as transaction:
            return transaction.append(kind, **data)

    @contextmanager
    def transaction(self) -> Iterator[AuditTransaction]:
        """Write events together with other rows of the store: all of the block, or nothing.

        Raises:
            StoreError: It could not be committed.
            RuntimeError: This thread already runs a write transaction of the store.
        """
        if self._store.is_writing:
            # Checked before the lock: waiting for it here could wait for ourselves.
            raise RuntimeError("nested transaction: use the append() of the open audit transaction")
        with self._lock:
            writer = self._writer
            draft = _Writer(**vars(writer))
            in_body = True
            try:
                with self._store.begin() as connection:
                    yield AuditTransaction(connection, draft, self._clock)
                    in_body = False
                    if draft.seq != writer.seq and self._is_due(draft):
                        self._seal(connection, draft)
                self._writer = draft
            except BaseException:
                if not in_body:
                    # The commit may or may not have reached the database. Another event with the
                    # same number could branch the chain: go on as somebody else.
                    self._writer = _Writer.new()
                raise

    def checkpoint(self) -> None:
        """Seal the chain up to the last event, if there is anything new to seal."""
        with self._lock:
            draft = _Writer(**vars(self._writer))
            if draft.seq == draft.sealed_seq:
                return
            with self._store.begin() as connection:
                self._seal(connection, draft)
            self._writer = draft

    def close(self) -> None:
        """Seal the chain; the store stays open."""
        self.checkpoint()

    def __enter__(self) -> AuditLog:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def events(
        self,
        session_id: str | None = None,
        request_id: str | None = None,
        kind: AuditKind | str | None = None,
        *,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> list[AuditEvent]:
        """Return the events that match every given argument, in the order they were written.

        Args:
            session_id: Of this session.
            request_id: Of this request.
            kind: Of this kind.
            tenant: Of this tenant; None means of all: only for those who may see all.
            limit: The latest this many.
        """
        query = select(audit_events)
        wanted = {
            "session_id": session_id,
            "request_id": request_id,
            "kind": None if kind is None else AuditKind(kind).value,
            "tenant": tenant,
        }
        for name, value in wanted.items():
            if value is not None:
                query = query.where(audit_events.c[name] == value)
        query = query.order_by(audit_events.c.position.desc())
        if limit is not None:
            query = query.limit(limit)
        with self._store.read() as connection:
            rows: Sequence[Row[Any]] = connection.execute(query).all()
        return [_event(row) for row in reversed(rows)]

    def verify(
        self, store: Store | None = None, *, anchor: AuditAnchor | None = None
    ) -> AuditVerification:
        """Check the whole audit of `store` (default: this log's own); see `verify_audit`."""
        keys = KeyStore().trusted_keys(KeyPurpose.AUDIT)
        if self._key is not None:
            keys[self._key.key_id] = self._key.public_key
        return verify_audit(store or self._store, trusted_keys=keys, anchor=anchor)

    def anchor(self) -> AuditAnchor | None:
        """Return the latest checkpoint, to be kept where the store's owner cannot reach it."""
        with self._store.read() as connection:
            row = _latest_checkpoint(connection)
        return None if row is None else AuditAnchor(number=int(row.number), hash=str(row.hash))

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._writer = _Writer.new()

    def _is_due(self, writer: _Writer) -> bool:
        if writer.sealed_at is None or writer.seq - writer.sealed_seq >= self._checkpoint_every:
            return True
        return (self._clock() - writer.sealed_at).total_seconds() >= self._checkpoint_seconds

    def _seal(self, connection: Connection, writer: _Writer) -> None:
        if self._key is None:
            self._key = KeyStore().signing_key()
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHECKPOINT_LOCK}
            )
        last = _latest_checkpoint(connection)
        now = self._clock()
        fields: dict[str, Any] = {
            "number": 1 if last is None else int(last.number) + 1,
            "writer": writer.name,
            "seq": writer.seq,
            "head_hash": writer.head,
            "ts": timestamp(now),
            "key_id": self._key.key_id,
            "prev_hash": CHECKPOINT_GENESIS if last is None else str(last.hash),
        }
        own_hash = checkpoint_hash(**fields)
        signature = encode_signature(self._key.sign(own_hash.encode("ascii")))
        connection.execute(
            insert(audit_checkpoints), {**fields, "hash": own_hash, "signature": signature}
        )
        writer.sealed_seq = writer.seq
        writer.sealed_at = now


_EVENT_COLUMNS = (*HEADER_FIELDS, "body", "prev_hash", "hash")


def _insert_event(mark: str) -> str:
    names, marks = ", ".join(_EVENT_COLUMNS), ", ".join(mark for _ in _EVENT_COLUMNS)
    return f"INSERT INTO {audit_events.name} ({names}) VALUES ({marks})"  # noqa: S608 - constants


# As text: the expression language costs a third of a whole append.
_INSERT_EVENT = {"sqlite": _insert_event("?"), "postgresql": _insert_event("%s")}


def _latest_checkpoint(connection: Connection) -> Row[Any] | None:
    query = select(audit_checkpoints).order_by(audit_checkpoints.c.number.desc()).limit(1)
    return connection.execute(query).first()


def _event(row: Row[Any]) -> AuditEvent:
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


_logs: weakref.WeakSet[AuditLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_logs):
        log._renew()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
