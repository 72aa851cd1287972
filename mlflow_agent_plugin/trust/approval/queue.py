"""The queue of calls that wait for a human, in the store.

The rules are in `trust.approval.rules`; here each becomes one compare-and-set statement, so that of
any number of concurrent answers, or executions, exactly one wins, on whatever machine.

Rules:
- Asking twice for the same action of the same call gives the same approval, answered or not.
- Requests and answers are audited in the same transaction (APPROVAL_REQUESTED, APPROVAL_ANSWERED):
  callers do not append these two themselves.
- The answer that counts is the one in the store, never a value handed to a resumed graph.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.entities import Actor, Clock, ToolCall, utc_now
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import approvals
from mlflow_agent_plugin.trust.approval.rules import (
    Approval,
    ApprovalState,
    answer,
    at_time,
    execute,
    not_found,
)
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog, AuditTransaction
from mlflow_agent_plugin.trust.spelling import spell_field

_FIELDS = tuple(field.name for field in fields(Approval))
_OPEN = (ApprovalState.WAITING.value, ApprovalState.APPROVED.value)


class ApprovalQueue:
    """Approvals of a store.

    Args:
        store: Where they are kept.
        clock: Time of requests, answers and deadlines.
        audit: Log that records requests and answers; default: an own one that seals each.
        require_verified: Accept answers only from actors whose credential was checked (login,
            token); without it whoever can open the store can name himself, as in a notebook.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock = utc_now,
        *,
        audit: AuditLog | None = None,
        require_verified: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._require_verified = require_verified
        self._audit = audit or AuditLog(store, clock=clock, checkpoint_every=1)

    def request(
        self,
        call: ToolCall,
        *,
        agent: str,
        agent_digest: str,
        policy_digest: str,
        actor: Actor,
        role: str,
        reason: str,
        ttl_seconds: float,
        transaction: AuditTransaction | None = None,
    ) -> Approval:
        """Ask for an approval of one exact call, or return the one already asked for.

        Args:
            call: The call.
            agent: Agent name.
            agent_digest: Digest of the bundle that runs.
            policy_digest: Digest of the policies that decided.
            actor: On whose behalf; may not answer.
            role: Who may answer.
            reason: Why a human is asked.
            ttl_seconds: How long the answer, and its use, may take.
            transaction: Join this one instead of starting one.

        Raises:
            ApprovalError: The arguments cannot be bound to a digest, or the deadline is not ahead.
        """
        try:
            digest = call.action_digest(agent_digest=agent_digest, policy_digest=policy_digest)
        except ValueError as error:
            raise ApprovalError(f"cannot be approved: {error}", where=call.tool) from error
        if not ttl_seconds > 0:
            raise ApprovalError("the time to answer must be positive", where="ttl_seconds")
        now = self._clock()
        values = {
            "approval_id": f"apr-{uuid.uuid4().hex}",
            "action_digest": digest,
            "tool": call.tool,
            "arguments": json.dumps(dict(call.arguments), sort_keys=True),
            "agent": agent,
            "agent_digest": agent_digest,
            "policy_digest": policy_digest,
            "session_id": call.session_id,
            "call_id": call.call_id,
            "tenant": actor.tenant,
            "requested_by": actor.user,
            "role": role,
            "reason": spell_field(reason) or "",
            "state": ApprovalState.WAITING.value,
            "created_at": now,
            "expires_at": now + timedelta(seconds=ttl_seconds),
        }
        with self._transaction(transaction) as open_transaction:
            connection = open_transaction.connection
            make = sqlite_insert if self._store.dialect == "sqlite" else postgres_insert
            connection.execute(make(approvals).values(values).on_conflict_do_nothing())
            found = connection.execute(
                select(approvals).where(
                    approvals.c.session_id == call.session_id,
                    approvals.c.call_id == call.call_id,
                    approvals.c.action_digest == digest,
                )
            ).one()
            approval = _approval(found)
            if approval.tenant != actor.tenant or approval.requested_by != actor.user:
                raise not_found(approval.approval_id)
            if approval.approval_id == values["approval_id"]:
                open_transaction.append(
                    AuditKind.APPROVAL_REQUESTED,
                    session_id=call.session_id,
                    actor=actor,
                    agent=agent,
                    agent_digest=agent_digest,
                    approval_id=approval.approval_id,
                    action_digest=digest,
                    policy_digest=policy_digest,
                    tool=call.tool,
                    call_id=call.call_id,
                    role=role,
                    reason=reason,
                    expires_at=approval.expires_at,
                )
        return at_time(approval, now)

    def get(self, approval_id: str, *, tenant: str | None = None) -> Approval:
        """Return one approval as it stands now.

        Args:
            approval_id: Its id.
            tenant: See only this tenant's; None: of any, for the runtime and operators.

        Raises:
            ApprovalError: There is none (for this tenant).
        """
        with self._store.read() as connection:
            approval = self._get(connection, approval_id)
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
        query = query.order_by(approvals.c.created_at.desc(), approvals.c.approval_id).limit(1)
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else at_time(_approval(row), self._clock())

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
            return [at_time(_approval(row), now) for row in connection.execute(query)]

    def approve(self, approval_id: str, by: Actor, reason: str = "") -> Approval:
        """Answer yes.

        Raises:
            ApprovalError: The answer breaks a rule, or somebody else answered first.
        """
        return self._answer(approval_id, by, reason, approve=True)

    def reject(self, approval_id: str, by: Actor, reason: str) -> Approval:
        """Answer no, with a reason; raises as `approve`."""
        return self._answer(approval_id, by, reason, approve=False)

    def mark_executed(
        self,
        approval_id: str,
        *,
        action_digest: str,
        transaction: AuditTransaction | None = None,
    ) -> Approval:
        """Use the approval up, before its action runs.

        Args:
            approval_id: Its id.
            action_digest: Of the action about to run, computed afresh from the call at hand.
            transaction: Join this one, e.g. the one that records TOOL_CALL_STARTED.

        Raises:
            ApprovalError: It is about another action, not approved, expired, or used already.
        """
        now = self._clock()
        with self._transaction(transaction) as open_transaction:
            connection = open_transaction.connection
            before = self._get(connection, approval_id)
            after = execute(before, action_digest=action_digest, now=now)
            self._swap(connection, before, after)
        return after

    def _answer(self, approval_id: str, by: Actor, reason: str, *, approve: bool) -> Approval:
        now = self._clock()
        with self._transaction(None) as transaction:
            before = self._get(transaction.connection, approval_id)
            text = spell_field(reason) or ""
            after = answer(
                before,
                by=by,
                approve=approve,
                reason=text,
                now=now,
                require_verified=self._require_verified,
            )
            self._swap(transaction.connection, before, after)
            transaction.append(
                AuditKind.APPROVAL_ANSWERED,
                session_id=after.session_id,
                actor=by,
                agent=after.agent,
                agent_digest=after.agent_digest,
                approval_id=approval_id,
                action_digest=after.action_digest,
                tool=after.tool,
                call_id=after.call_id,
                state=after.state.value,
                reason=after.answer_reason,
                requested_by=after.requested_by,
            )
        return after

    def _swap(self, connection: Connection, before: Approval, after: Approval) -> None:
        """Write `after` if the row is still as `before`; the loser learns what it became."""
        changed = connection.execute(
            update(approvals)
            .where(
                approvals.c.approval_id == before.approval_id,
                approvals.c.state == before.state.value,
            )
            .values(
                state=after.state.value,
                answered_by=after.answered_by,
                answered_at=after.answered_at,
                answer_reason=after.answer_reason,
                executed_at=after.executed_at,
            )
        )
        if changed.rowcount != 1:
            now_is = self._get(connection, before.approval_id)
            raise ApprovalError(
                f"somebody else was quicker: it is {now_is.state.value} now",
                where=f"approval {before.approval_id}",
            )

    @staticmethod
    def _get(connection: Connection, approval_id: str) -> Approval:
        row = connection.execute(
            select(approvals).where(approvals.c.approval_id == approval_id)
        ).first()
        if row is None:
            raise not_found(approval_id)
        return _approval(row)

    @contextmanager
    def _transaction(self, given: AuditTransaction | None) -> Iterator[AuditTransaction]:
        if given is not None:
            yield given
            return
        with self._audit.transaction() as transaction:
            yield transaction


def _approval(row: Row[Any]) -> Approval:
    values = {name: row._mapping[name] for name in _FIELDS}  # noqa: SLF001 - public accessor
    values["arguments"] = json.loads(values["arguments"])
    values["state"] = ApprovalState(values["state"])
    return Approval(**values)
