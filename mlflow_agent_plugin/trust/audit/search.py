"""Finding events in a large audit, page by page.

Rules:
- The newest come first; a page begins after a position, so that a page costs the same wherever it
  is, and new events do not shift it.
- A search looks at no more than `MAX_SCANNED` rows: a filter that fits next to nothing ends with a
  page that says where to go on, never with a request that takes minutes.
- Whoever may see one tenant only gives that tenant; None means all and is for operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, true

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_events
from mlflow_agent_plugin.trust.audit.chain import AuditEvent, AuditKind, timestamp
from mlflow_agent_plugin.trust.audit.rows import read_event

MAX_SCANNED = 200_000
MAX_PAGE = 500


@dataclass(frozen=True)
class AuditQuery:
    """What to look for; None means anything.

    Attributes:
        tenant: Of this tenant.
        kind: Of this kind.
        session_id: Of this session.
        request_id: Of this request.
        actor: On behalf of, or by, this user.
        agent: Of this agent.
        since: Not before.
        until: Before.
        spelled: Of one of these kinds, with one of the kind's spellings in the body's text; a kind
            without spellings fits as it is.
    """

    tenant: str | None = None
    kind: AuditKind | None = None
    session_id: str | None = None
    request_id: str | None = None
    actor: str | None = None
    agent: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    spelled: Mapping[AuditKind, Sequence[str]] | None = None


@dataclass(frozen=True)
class AuditPage:
    """A page of events, the newest first.

    Attributes:
        events: What was found.
        older: Position to go on after, None at the end.
    """

    events: Sequence[AuditEvent]
    older: int | None


def search_audit(
    store: Store, query: AuditQuery | None = None, *, before: int | None = None, limit: int = 50
) -> AuditPage:
    """Return the newest events that fit `query`.

    Args:
        store: The runtime store, or the registry's.
        query: What to look for.
        before: Only events before this position.
        limit: How many, at most `MAX_PAGE`.

    Raises:
        StoreError: The store cannot be read.
    """
    wanted = query or AuditQuery()
    limit = max(1, min(limit, MAX_PAGE))
    table = audit_events
    narrow = wanted.session_id is not None or wanted.request_id is not None
    with store.read() as connection:
        newest = before
        if newest is None:
            newest = int(connection.execute(select(func.max(table.c.position))).scalar() or 0) + 1
        lowest = 0 if narrow else max(0, newest - MAX_SCANNED)
        statement = select(table).where(table.c.position < newest, table.c.position >= lowest)
        for name in ("tenant", "session_id", "request_id", "actor", "agent"):
            value = getattr(wanted, name)
            if value is not None:
                statement = statement.where(table.c[name] == value)
        if wanted.kind is not None:
            statement = statement.where(table.c.kind == wanted.kind.value)
        if wanted.spelled is not None:
            statement = statement.where(or_(*_spellings(wanted.spelled)))
        if wanted.since is not None:
            statement = statement.where(table.c.ts >= timestamp(wanted.since))
        if wanted.until is not None:
            statement = statement.where(table.c.ts < timestamp(wanted.until))
        statement = statement.order_by(table.c.position.desc()).limit(limit + 1)
        found = connection.execute(statement).all()
    events = [read_event(row) for row in found[:limit]]
    if len(found) > limit:
        return AuditPage(events, events[-1].position)
    return AuditPage(events, lowest if lowest > 0 else None)


def _spellings(spelled: Mapping[AuditKind, Sequence[str]]) -> list[ColumnElement[bool]]:
    """Return a condition for each kind of event that is looked for."""
    table = audit_events
    return [
        and_(
            table.c.kind == kind.value,
            or_(*(table.c.body.contains(text, autoescape=True) for text in texts))
            if texts
            else true(),
        )
        for kind, texts in spelled.items()
    ]
