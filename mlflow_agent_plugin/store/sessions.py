"""Conversations: whose they are, and who runs the current turn.

Rules:
- A session belongs to one agent and one actor (tenant, user, verified or not). Anybody else is
  told that it does not exist, whether it does or not.
- One turn at a time: a turn runs under a lease that one owner holds; all others are busy until it
  is released or has run out. An owner stands for one turn: even the holder cannot take it twice.
- Every lease counts the session's turns up by one. A worker that lost its lease finds out at
  `renew`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import RequestError, SessionBusyError, SessionNotFoundError
from mlflow_agent_plugin.store.driver import DriverStatement, bind_time
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import sessions

MAX_SESSION_ID_CHARS = 200

_RENEW = DriverStatement(
    f"UPDATE {sessions.name} SET lease_until = ?, last_at = ?"  # noqa: S608 - constants
    " WHERE session_id = ? AND lease_owner = ?"
)


@dataclass(frozen=True)
class SessionRecord:
    """One conversation.

    Attributes:
        turns: Turns begun so far.
        lease_owner: Who runs the current turn, None between turns.
    """

    session_id: str
    tenant: str
    user: str
    verified: bool
    agent: str
    agent_digest: str
    created_at: datetime
    last_at: datetime
    turns: int
    lease_owner: str | None
    lease_until: datetime | None


@dataclass(frozen=True)
class Lease:
    """The right to run one turn.

    Attributes:
        turn: Number of the turn within its session, from 1; grows with every lease.
    """

    session_id: str
    owner: str
    until: datetime
    turn: int


class SessionTable:
    """The sessions of a store.

    Args:
        store: Where they are kept.
        clock: Time for leases.
    """

    def __init__(self, store: Store, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._clock = clock

    def open(
        self,
        session_id: str,
        actor: Actor,
        agent: str,
        agent_digest: str,
        *,
        connection: Connection | None = None,
    ) -> SessionRecord:
        """Start the session, or continue it if it is this actor's with this agent.

        A new version of the agent may continue a session; its digest is noted. With `connection`
        it is a part of that transaction.

        Raises:
            RequestError: `session_id` cannot be a session's name.
            SessionNotFoundError: The session is somebody else's.
        """
        _check_session_id(session_id)
        now = self._clock()
        values = {
            "session_id": session_id,
            "tenant": actor.tenant,
            "user_name": actor.user,
            "verified": actor.verified,
            "agent": agent,
            "agent_digest": agent_digest,
            "created_at": now,
            "last_at": now,
            "turns": 0,
        }
        with self._store.begin(connection) as opened:
            make = sqlite_insert if self._store.dialect == "sqlite" else postgres_insert
            opened.execute(make(sessions).values(values).on_conflict_do_nothing())
            record = self._require(opened, session_id, actor, agent=agent)
            if record.created_at != now or record.agent_digest != agent_digest:
                opened.execute(
                    update(sessions)
                    .where(sessions.c.session_id == session_id)
                    .values(agent_digest=agent_digest, last_at=now)
                )
                record = self._require(opened, session_id, actor, agent=agent)
        return record

    def require(
        self, session_id: str, actor: Actor, *, connection: Connection | None = None
    ) -> SessionRecord:
        """Return the actor's session.

        Raises:
            SessionNotFoundError: There is none of that name, or it is another tenant's or user's.
        """
        _check_session_id(session_id)
        with self._store.read(connection) as opened:
            return self._require(opened, session_id, actor)

    def acquire_lease(
        self,
        session_id: str,
        owner: str,
        ttl_seconds: float,
        *,
        connection: Connection | None = None,
    ) -> Lease:
        """Begin a turn.

        Args:
            session_id: A session that was opened.
            owner: Name of this turn, never used before (e.g. the request id).
            ttl_seconds: How long the turn may take before others may begin one.
            connection: Transaction of which it is a part; default: one of its own.

        Raises:
            SessionBusyError: Another turn runs.
            SessionNotFoundError: There is no such session.
        """
        now = self._clock()
        until = now + timedelta(seconds=ttl_seconds)
        with self._store.begin(connection) as opened:
            taken = opened.execute(
                update(sessions)
                .where(
                    sessions.c.session_id == session_id,
                    or_(sessions.c.lease_owner.is_(None), sessions.c.lease_until <= now),
                )
                .values(
                    lease_owner=owner, lease_until=until, last_at=now, turns=sessions.c.turns + 1
                )
            )
            turn = opened.execute(
                select(sessions.c.turns).where(sessions.c.session_id == session_id)
            ).scalar()
        if turn is None:
            raise _not_found(session_id)
        if taken.rowcount != 1:
            raise SessionBusyError(
                "another turn of this session is running",
                where=f"session {session_id}",
                hint="Try again when it has ended.",
            )
        return Lease(session_id=session_id, owner=owner, until=until, turn=int(turn))

    def renew(
        self,
        session_id: str,
        owner: str,
        ttl_seconds: float,
        *,
        connection: Connection | None = None,
    ) -> None:
        """Extend the lease of a turn that still runs; with `connection`, within its transaction.

        Raises:
            SessionBusyError: The lease was lost: stop, another turn may be running.
        """
        now = self._clock()
        until = now + timedelta(seconds=ttl_seconds)
        with self._store.begin(connection) as opened:
            times = (bind_time(moment, opened) for moment in (until, now))
            lost = SessionBusyError(
                "this turn lost its lease: it ran for too long and another turn may have begun",
                where=f"session {session_id}",
            )
            _RENEW.expect(opened, (*times, session_id, owner), lost)

    def release(self, session_id: str, owner: str, *, connection: Connection | None = None) -> bool:
        """End a turn; return False if its lease had been lost already."""
        with self._store.begin(connection) as opened:
            result = opened.execute(
                update(sessions)
                .where(sessions.c.session_id == session_id, sessions.c.lease_owner == owner)
                .values(lease_owner=None, lease_until=None, last_at=self._clock())
            )
        return result.rowcount == 1

    def list(self, *, tenant: str, limit: int = 100) -> Sequence[SessionRecord]:
        """Return the tenant's sessions, the latest first."""
        query = (
            select(sessions)
            .where(sessions.c.tenant == tenant)
            .order_by(sessions.c.last_at.desc(), sessions.c.session_id)
            .limit(limit)
        )
        with self._store.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    @staticmethod
    def _require(
        connection: Connection, session_id: str, actor: Actor, *, agent: str | None = None
    ) -> SessionRecord:
        row = connection.execute(
            select(sessions).where(
                sessions.c.session_id == session_id,
                sessions.c.tenant == actor.tenant,
                sessions.c.user_name == actor.user,
                sessions.c.verified == actor.verified,
            )
        ).first()
        record = None if row is None else _record(row)
        if record is None or (agent is not None and record.agent != agent):
            raise _not_found(session_id)
        return record


def _not_found(session_id: str) -> SessionNotFoundError:
    return SessionNotFoundError("no such session for this user", where=f"session {session_id}")


def _check_session_id(session_id: str) -> None:
    usable = (
        isinstance(session_id, str)
        and 0 < len(session_id) <= MAX_SESSION_ID_CHARS
        and session_id.isprintable()
    )
    if not usable:
        raise RequestError(
            f"a session id is 1 to {MAX_SESSION_ID_CHARS} printable characters", where="session_id"
        )


def _record(row: Row[Any]) -> SessionRecord:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public accessor
    values["user"] = values.pop("user_name")
    return SessionRecord(**values)
