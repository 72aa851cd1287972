"""One transaction for MLflow's change, the registry's own rows and the audit.

Rules:
- On sqlite and PostgreSQL the audit's transaction is the outer one: MLflow's own code runs in an
  ORM session on the same connection, so that all of it is committed or none. On sqlite the write
  lock is taken before anything is read.
- On MySQL, which the runtime store does not use, MLflow's session is the outer one; events go to
  the runtime store (``MLFLOW_AGENTS_STORE_URI``) right before the commit: there may be an event
  without a change, never a change without an event.
- MLflow's methods find the open session through a context variable and join it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from mlflow_agent_plugin.entities import Clock
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.registry.tables import ensure_tables
from mlflow_agent_plugin.registry.vault import ContentNeededError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog


@dataclass(frozen=True)
class Transaction:
    """An open transaction.

    Attributes:
        session: The ORM session MLflow's methods join.
        connection: Its connection.
        append: Adds an audit event that exists only if the transaction commits.
    """

    session: Session
    connection: Connection
    append: Callable[..., str]


class Transactions:
    """Opens transactions on one registry database.

    Args:
        db_uri: Of MLflow's registry.
        engine: MLflow's engine on it.
        managed_session: MLflow's own session maker.
        clock: Time of audit events.
        replica: MLflow reads from another database than it writes to.
    """

    def __init__(
        self,
        db_uri: str,
        engine: Any,
        managed_session: Any,
        clock: Clock,
        *,
        replica: bool = False,
    ) -> None:
        self._replica = replica
        self._engine = engine
        self._managed_session = managed_session
        self._joined: ContextVar[Session | None] = ContextVar("registry_session", default=None)
        # An in-memory database cannot be opened a second time, as the audit would have to.
        self._shared = engine.dialect.name == "postgresql" or (
            engine.dialect.name == "sqlite" and engine.url.database not in {None, "", ":memory:"}
        )
        self._open_lock = threading.Lock()
        self._audit: AuditLog | None = None
        self._db_uri = db_uri
        self._clock = clock
        ensure_tables(engine)

    @property
    def audit(self) -> AuditLog:
        """The audit of this registry; opened on first use."""
        with self._open_lock:
            if self._audit is None:
                uri = self._db_uri if self._shared else None
                self._audit = AuditLog(Store.open(uri), clock=self._clock)
            return self._audit

    @property
    def joined(self) -> Session | None:
        """The session of the transaction that is open here, None if none is."""
        return self._joined.get()

    @contextmanager
    def session(self, *, read_only: bool = True) -> Iterator[Session]:
        """Stand in for MLflow's session maker: join the open transaction, else as MLflow does."""
        joined = self._joined.get()
        if joined is not None:
            yield joined
            joined.flush()
            return
        with self._managed_session(read_only=read_only) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read by; inside a transaction, its own."""
        joined = self._joined.get()
        if joined is not None:
            yield joined.connection()
            return
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what is read inside share one session, and so one connection and one snapshot."""
        if self._joined.get() is not None or self._replica:
            yield
            return
        with self._managed_session(read_only=True) as session, self._joining(session):
            yield

    @contextmanager
    def ordinary(self) -> Iterator[Session]:
        """Run a change of an ordinary model under the write lock, in MLflow's own session."""
        with self._managed_session(read_only=False) as session:
            if self._engine.dialect.name == "sqlite":
                session.execute(text("BEGIN IMMEDIATE"))
            with self._joining(session):
                yield session

    @contextmanager
    def governed(self) -> Iterator[Transaction]:
        """Run a change of a gated model together with its audit events."""
        if not self._shared:
            with self._separate() as transaction:
                yield transaction
            return
        with self.audit.transaction() as outer:
            session = Session(bind=outer.connection, join_transaction_mode="rollback_only")
            try:
                with self._joining(session):
                    yield Transaction(session, outer.connection, outer.append)
                session.flush()
            finally:
                session.close()

    @contextmanager
    def _separate(self) -> Iterator[Transaction]:
        events: list[tuple[AuditKind, dict[str, Any]]] = []

        def append(kind: AuditKind, **data: Any) -> str:
            events.append((kind, data))
            return ""

        refusal: AgentError | ContentNeededError | None = None
        with self._managed_session(read_only=False) as session:
            try:
                with self._joining(session):
                    yield Transaction(session, session.connection(), append)
                session.flush()
                for kind, data in events:
                    self.audit.append(kind, **data)
            except (AgentError, ContentNeededError) as error:
                # MLflow's session would make an internal error of it
                session.rollback()
                refusal = error
        if refusal is not None:
            raise refusal

    @contextmanager
    def _joining(self, session: Session) -> Iterator[None]:
        token = self._joined.set(session)
        try:
            yield
        finally:
            self._joined.reset(token)


def lock_model(session: Session, workspace: str, name: str) -> None:
    """Make other changes of this model wait until the transaction ends (sqlite: all of them do)."""
    if session.get_bind().dialect.name == "sqlite":
        return
    session.execute(
        text("SELECT name FROM registered_models WHERE workspace = :w AND name = :n FOR UPDATE"),
        {"w": workspace, "n": name},
    )
