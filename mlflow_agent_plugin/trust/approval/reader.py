"""Reading approvals as they stand now: what lapsed is shown as lapsed, whether or not written."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, or_, select

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import approvals
from mlflow_agent_plugin.trust.approval.record import Approval, ApprovalState
from mlflow_agent_plugin.trust.approval.rows import read_approval, read_one, with_votes
from mlflow_agent_plugin.trust.approval.rules import at_time, not_found

_OPEN = (ApprovalState.WAITING.value, ApprovalState.APPROVED.value)


class ApprovalReader:
    """Approvals of a store, to be looked at.

    Args:
        store: Where they are kept.
        clock: Time deadlines and claims are judged at.
    """

    def __init__(self, store: Store, clock: Clock = utc_now) -> None:
        self._store = store
        self._clock = clock

    def get(self, approval_id: str, *, tenant: str | None = None) -> Approval:
        """Return one approval as it stands now.

        Args:
            approval_id: Its id.
            tenant: See only this tenant's; None: of any, for the runtime and operators.

        Raises:
            ApprovalError: There is none (for this tenant).
        """
        with self._store.read() as connection:
            approval = read_one(connection, approval_id)
        if tenant is not None and approval.tenant != tenant:
            raise not_found(approval_id)
        return at_time(approval, self._clock())

    def find(
        self, session_id: str, call_id: str, *, action_digest: str | None = None
    ) -> Approval | None:
        """Return the latest approval asked for a call (of this exact action, if given), or None."""
        query = select(approvals).where(
            approvals.c.session_id == session_id, approvals.c.call_id == call_id
        )
        if action_digest is not None:
            query = query.where(approvals.c.action_digest == action_digest)
        query = query.order_by(
            # The edited call is later than the one it replaced, also within one tick of the clock.
            approvals.c.created_at.desc(),
            approvals.c.edited_from.is_(None),
            approvals.c.approval_id,
        ).limit(1)
        with self._store.read() as connection:
            row = connection.execute(query).first()
            found = None if row is None else with_votes(connection, [read_approval(row)])[0]
        return None if found is None else at_time(found, self._clock())

    def list(
        self,
        tenant: str | None = None,
        state: ApprovalState | str | None = None,
        session_id: str | None = None,
        *,
        limit: int = 1000,
    ) -> Sequence[Approval]:
        """Return approvals as they stand now, the oldest first.

        Args:
            tenant: Of this tenant; None: of all, for operators only.
            state: In this state.
            session_id: Of this session.
            limit: At most this many.
        """
        now = self._clock()
        query = select(approvals)
        if tenant is not None:
            query = query.where(approvals.c.tenant == tenant)
        if session_id is not None:
            query = query.where(approvals.c.session_id == session_id)
        if state is not None:
            wanted = ApprovalState(state)
            past = approvals.c.expires_at <= now
            if wanted is ApprovalState.EXPIRED:
                # Expiry is a fact of the clock: nobody has to write it down for it to hold.
                stands = or_(
                    approvals.c.state == wanted.value, and_(approvals.c.state.in_(_OPEN), past)
                )
            elif wanted.value in _OPEN:
                stands = and_(approvals.c.state == wanted.value, ~past)
            else:
                stands = approvals.c.state == wanted.value
            query = query.where(stands)
        query = query.order_by(approvals.c.created_at, approvals.c.approval_id).limit(limit)
        with self._store.read() as connection:
            found = [read_approval(row) for row in connection.execute(query)]
            return [at_time(approval, now) for approval in with_votes(connection, found)]
