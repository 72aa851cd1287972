"""What a person may see of the approval queue, page by page.

Rules:
- Only calls of the person's own tenant; an operator who may see all gives None.
- The oldest that wait come first; answered ones, the newest first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import approvals
from mlflow_agent_plugin.trust.approval.record import Approval, ApprovalState
from mlflow_agent_plugin.trust.approval.rows import read_approval, with_votes
from mlflow_agent_plugin.trust.approval.rules import at_time

MAX_PAGE = 200


@dataclass(frozen=True)
class InboxFilter:
    """Which approvals to list; None means any.

    Attributes:
        tool: About calls of this tool.
        agent: Of this agent.
        requested_by: For this user.
        role: That this role may answer.
        session_id: Of this session.
        state: In this state; expired are those nobody answered in time.
    """

    tool: str | None = None
    agent: str | None = None
    requested_by: str | None = None
    role: str | None = None
    session_id: str | None = None
    state: ApprovalState | None = None

    def conditions(self, now: datetime) -> list[ColumnElement[bool]]:
        """Return what a row has to meet."""
        found = [
            approvals.c[field.name] == getattr(self, field.name)
            for field in fields(self)
            if field.name != "state" and getattr(self, field.name) is not None
        ]
        if self.state is ApprovalState.EXPIRED:
            waits = approvals.c.state == ApprovalState.WAITING.value
            found.append(
                or_(
                    approvals.c.state == ApprovalState.EXPIRED.value,
                    and_(waits, approvals.c.expires_at <= now),
                )
            )
        elif self.state is not None:
            found.append(approvals.c.state == self.state.value)
        return found


@dataclass(frozen=True)
class InboxPage:
    """A page of approvals.

    Attributes:
        approvals: What is on it, as it stands now.
        offset: How many came before.
        more: Whether there are further ones.
    """

    approvals: tuple[Approval, ...]
    offset: int
    more: bool


def list_inbox(
    store: Store,
    *,
    tenant: str | None,
    now: datetime,
    roles: Collection[str] | None = None,
    waiting: bool = True,
    only: InboxFilter | None = None,
    offset: int = 0,
    limit: int = 50,
) -> InboxPage:
    """Return approvals a person may see.

    Args:
        store: The runtime store.
        tenant: Of this tenant; None: of all, for operators only.
        now: The time.
        roles: Only those that one of these roles may answer; None: all.
        waiting: Those that wait; else those that were answered or expired.
        only: Of those, the ones that fit.
        offset: How many to skip.
        limit: How many to return.
    """
    limit = max(1, min(limit, MAX_PAGE))
    state, past = approvals.c.state, approvals.c.expires_at <= now
    open_now = and_(state == ApprovalState.WAITING.value, ~past)
    query = select(approvals).where(
        open_now if waiting else or_(state != ApprovalState.WAITING.value, past)
    )
    if tenant is not None:
        query = query.where(approvals.c.tenant == tenant)
    if roles is not None:
        query = query.where(approvals.c.role.in_(sorted(roles)))
    if only is not None:
        query = query.where(*only.conditions(now))
    when = approvals.c.created_at
    query = query.order_by(when if waiting else when.desc(), approvals.c.approval_id)
    with store.read() as connection:
        rows = connection.execute(query.offset(offset).limit(limit + 1)).all()
        page = with_votes(connection, [read_approval(row) for row in rows[:limit]])
    found = tuple(at_time(approval, now) for approval in page)
    return InboxPage(found, offset, len(rows) > limit)


def count_waiting(
    store: Store, *, tenant: str | None, now: datetime, roles: Collection[str] | None = None
) -> int:
    """Return how many calls wait for an answer; arguments as `list_inbox`."""
    query = select(func.count()).where(
        approvals.c.state == ApprovalState.WAITING.value, approvals.c.expires_at > now
    )
    if tenant is not None:
        query = query.where(approvals.c.tenant == tenant)
    if roles is not None:
        query = query.where(approvals.c.role.in_(sorted(roles)))
    with store.read() as connection:
        return int(connection.execute(query).scalar() or 0)
