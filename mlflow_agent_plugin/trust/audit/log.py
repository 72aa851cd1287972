"""Writing the audit, and reading it back.

Rules:
- Append only. An event is durable when `append` returns; if it cannot be written, `append` raises
  and the caller must not go on with what it wanted to record.
- `transaction` writes events and other rows of the store together: both or neither.
- Signed checkpoints are written with a writer's first event, then every `checkpoint_every` events
  or `checkpoint_seconds`, whichever comes first, and on `close`.
- A chain has one user at a time. Threads that write at once write chains of their own: none waits
  for another's commit.
- After a fork, or when a commit's fate is unknown, a log goes on as a new writer: a chain never
  branches.

What `verify` can and cannot detect stands in `trust.audit.verify`.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, StoreError
from mlflow_agent_plugin.store.driver import DriverStatement, UnexpectedRowsError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints, audit_events
from mlflow_agent_plugin.trust.audit.chain import (
    CHECKPOINT_GENESIS,
    AuditEvent,
    AuditKind,
    checkpoint_hash,
    encode_signature,
    timestamp,
)
from mlflow_agent_plugin.trust.audit.rows import latest_anchor, read_event
from mlflow_agent_plugin.trust.audit.transaction import AuditTransaction, ChainWriter
from mlflow_agent_plugin.trust.audit.verification import AuditAnchor, AuditVerification
from mlflow_agent_plugin.trust.audit.verify import verify_audit
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore, SigningKey

if TYPE_CHECKING:
    from types import TracebackType

_CHECKPOINT_LOCK = 0x617564697400  # PostgreSQL: one checkpoint at a time; any fixed number


class AuditLog:
    """The audit of a store, as one process writes and sees it.

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
        self._renew()
        _logs.add(self)

    @property
    def store(self) -> Store:
        """Where the audit is kept."""
        return self._store

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

    def transaction(self) -> AbstractContextManager[AuditTransaction, bool | None]:
        """Write events together with other rows of the store: all of the block, or nothing.

        Raises:
            StoreError: It could not be committed.
            RuntimeError: This thread already runs a write transaction of the store.
        """
        return _AuditBlock(self, self._store)

    def checkpoint(self) -> None:
        """Seal every chain up to its last event, where there is anything new to seal.

        Chains that other threads are writing to at this moment are left to them.
        """
        unsealed = self._take_unsealed()
        if not unsealed:
            return
        kept = unsealed
        try:
            drafts = [writer.copy() for writer in unsealed]
            with self._store.begin() as connection:
                for draft in drafts:
                    self._seal(connection, draft)
            kept = drafts
        finally:
            self._give_back(*kept)

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
        return [read_event(row) for row in reversed(rows)]

    def verify(
        self, store: Store | None = None, *, anchor: AuditAnchor | None = None
    ) -> AuditVerification:
        """Check the whole audit of `store` (default: this log's own); see `verify_audit`."""
        known = KeyStore()
        keys = known.trusted_keys(KeyPurpose.AUDIT)
        if self._key is not None:
            keys[self._key.key_id] = self._key.public_key
        return verify_audit(
            store or self._store,
            trusted_keys=keys,
            revoked_keys=known.revoked_keys(KeyPurpose.AUDIT),
            anchor=anchor,
        )

    def anchor(self) -> AuditAnchor | None:
        """Return the latest checkpoint, to be kept where the store's owner cannot reach it."""
        with self._store.read() as connection:
            return latest_anchor(connection)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ChainWriter] = []

    def _take(self) -> ChainWriter:
        """Take the writer that was used last, or make one: a chain has one user at a time."""
        with self._lock:
            return self._idle.pop() if self._idle else ChainWriter.new()

    def _take_unsealed(self) -> list[ChainWriter]:
        with self._lock:
            found = [writer for writer in self._idle if writer.seq != writer.sealed_seq]
            self._idle = [writer for writer in self._idle if writer.seq == writer.sealed_seq]
            return found

    def _give_back(self, *writers: ChainWriter) -> None:
        with self._lock:
            self._idle.extend(writers)

    def _is_due(self, writer: ChainWriter) -> bool:
        if writer.sealed_at is None or writer.seq - writer.sealed_seq >= self._checkpoint_every:
            return True
        return (self._clock() - writer.sealed_at).total_seconds() >= self._checkpoint_seconds

    def _seal(self, connection: Connection, writer: ChainWriter) -> None:
        # This machine's key is read each time: a process that runs for months follows a rotation.
        key = self._key or KeyStore().signing_key()
        if connection.dialect.name == "postgresql":
            # After the rows that deferred statements lock, as everywhere: else two could deadlock.
            _LOCK_CHECKPOINTS.run(connection, (_CHECKPOINT_LOCK,))
        last = connection.exec_driver_sql(_LATEST_CHECKPOINT).first()
        now = self._clock()
        fields: dict[str, Any] = {
            "number": 1 if last is None else int(last[0]) + 1,
            "writer": writer.name,
            "seq": writer.seq,
            "head_hash": writer.head,
            "ts": timestamp(now),
            "key_id": key.key_id,
            "prev_hash": CHECKPOINT_GENESIS if last is None else str(last[1]),
        }
        own_hash = checkpoint_hash(**fields)
        signature = encode_signature(key.sign(own_hash.encode("ascii")))
        _INSERT_CHECKPOINT.run(connection, (*fields.values(), own_hash, signature))
        writer.sealed_seq = writer.seq
        writer.sealed_at = now


class _AuditBlock(AbstractContextManager[AuditTransaction, "bool | None"]):
    """One transaction of a log: a writer of its own, and the store's write transaction."""

    def __init__(self, log: AuditLog, store: Store) -> None:
        self._log = log
        self._store = store
        self._block = store.begin()

    def __enter__(self) -> AuditTransaction:
        if self._store.is_writing:
            # Checked before a writer is taken: a transaction in a transaction would branch a chain.
            raise RuntimeError("nested transaction: use the append() of the open audit transaction")
        log = self._log
        self._writer = writer = log._take()  # noqa: SLF001 - same module
        try:
            connection = self._block.__enter__()
        except BaseException:
            log._give_back(writer)  # noqa: SLF001 - same module
            raise
        self._transaction = AuditTransaction(connection, writer.copy(), log._clock)  # noqa: SLF001 - same module
        return self._transaction

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            try:
                self._block.__exit__(kind, error, trace)
            finally:
                self._log._give_back(self._writer)  # noqa: SLF001 - same module
            return
        self._finish()

    def _finish(self) -> None:
        """Write what was appended, seal what is due, and commit."""
        log, transaction = self._log, self._transaction
        draft = transaction.writer
        own = [self._writer]
        idle: list[ChainWriter] = []
        sealed: list[ChainWriter] = []
        try:
            try:
                transaction.write()
                if draft.seq != self._writer.seq and log._is_due(draft):  # noqa: SLF001 - same module
                    idle = log._take_unsealed()  # noqa: SLF001 - same module
                    sealed = [writer.copy() for writer in idle]
                    for due in (draft, *sealed):
                        log._seal(transaction.connection, due)  # noqa: SLF001 - same module
            except BaseException:
                self._block.__exit__(*sys.exc_info())
                raise
            # From here the commit may or may not have reached the database. Another event with the
            # same number could branch the chain: after a failure nobody goes on with it.
            was, own = own, []
            try:
                self._block.__exit__(None, None, None)
            except (UnexpectedRowsError, AgentError) as error:
                if not isinstance(error, StoreError):  # a statement's own: it was rolled back
                    own = was
                raise
            own, idle = [draft], sealed
        finally:
            # What a commit of unknown fate may have sealed can be sealed again.
            log._give_back(*reversed([*own, *idle]))  # noqa: SLF001 - same module


_LATEST_CHECKPOINT = (
    f"SELECT number, hash FROM {audit_checkpoints.name} ORDER BY number DESC LIMIT 1"  # noqa: S608 - constants
)
_LOCK_CHECKPOINTS = DriverStatement("SELECT pg_advisory_xact_lock(?)")
_INSERT_CHECKPOINT = DriverStatement(
    f"INSERT INTO {audit_checkpoints.name}"  # noqa: S608 - constants
    " (number, writer, seq, head_hash, ts, key_id, prev_hash, hash, signature)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


_logs: weakref.WeakSet[AuditLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_logs):
        log._renew()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
