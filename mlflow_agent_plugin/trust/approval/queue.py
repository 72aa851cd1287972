"""The queue of calls that wait for a human, in the store.

The rules are in `trust.approval.rules`; here each is one transaction on a locked row, so that of
any number of concurrent answers, edits or executions, exactly one wins, on whatever machine.

Rules:
- A row is locked while it is looked at and changed: what was checked is what is written.
- Asking twice for the same action of the same call gives the same approval, answered or not.
- Requests, claims, answers and edits are audited in the same transaction (APPROVAL_REQUESTED,
  APPROVAL_CLAIMED, APPROVAL_ANSWERED, APPROVAL_EDITED), under the request they came up in: callers
  do not append these themselves.
- Who must have logged in is settled when the approval is asked for and kept with it: as many
  processes may answer, each with settings of its own, none of them decides how strict to be.
- The answer that counts is the one in the store, never a value handed to a resumed graph.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Table, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.entities import MAX_QUORUM, Actor, Clock, ToolCall, sha256_of_json, utc_now
from mlflow_agent_plugin.errors import ApprovalError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import approvals
from mlflow_agent_plugin.trust.approval.reader import ApprovalReader
from mlflow_agent_plugin.trust.approval.record import Approval, ApprovalState
from mlflow_agent_plugin.trust.approval.rows import (
    CHANGING,
    FIELDS,
    insert_votes,
    read_approval,
    read_one,
    spell_arguments,
    with_votes,
)
from mlflow_agent_plugin.trust.approval.rules import (
    answer,
    at_time,
    claim,
    edit,
    execute,
    not_found,
    release,
)
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog, AuditTransaction
from mlflow_agent_plugin.trust.spelling import spell_field


class ApprovalQueue(ApprovalReader):
    """Approvals of a store.

    Args:
        store: Where they are kept.
        clock: Time of requests, answers and deadlines.
        audit: Log that records requests and answers; default: an own one that seals each.
        require_verified: Whether people who answer must have logged in (token, login). None: those
            who answer for a requester who has; in a notebook nobody has, and whoever can open the
            store may name himself. True: always. False: never; it does not loosen approvals that
            were asked for with another setting.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock = utc_now,
        *,
        audit: AuditLog | None = None,
        require_verified: bool | None = None,
    ) -> None:
        super().__init__(store, clock)
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
        quorum: int = 1,
        request_id: str | None = None,
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
            quorum: How many different people must say yes.
            request_id: The request the call came up in.
            transaction: Join this one instead of starting one.

        Raises:
            ApprovalError: The arguments cannot be bound to a digest, the deadline is not ahead, or
                the quorum is not a number of people.
        """
        try:
            digest = call.action_digest(agent_digest=agent_digest, policy_digest=policy_digest)
        except ValueError as error:
            raise ApprovalError(f"cannot be approved: {error}", where=call.tool) from error
        if not ttl_seconds > 0:
            raise ApprovalError("the time to answer must be positive", where="ttl_seconds")
        if isinstance(quorum, bool) or not 1 <= quorum <= MAX_QUORUM:
            raise ApprovalError(f"is not 1 to {MAX_QUORUM} people", where="quorum")
        now = self._clock()
        values = {
            "approval_id": f"apr-{uuid.uuid4().hex}",
            "action_digest": digest,
            "tool": call.tool,
            "arguments": spell_arguments(call.arguments),
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
            "request_id": spell_field(request_id),
            "quorum": quorum,
            "verified_only": (
                actor.verified if self._require_verified is None else self._require_verified
            ),
        }
        with self._transaction(transaction) as open_transaction:
            connection = open_transaction.connection
            connection.execute(self._insert(approvals).values(values).on_conflict_do_nothing())
            found = connection.execute(
                select(approvals).where(
                    approvals.c.session_id == call.session_id,
                    approvals.c.call_id == call.call_id,
                    approvals.c.action_digest == digest,
                )
            ).one()
            approval = with_votes(connection, [read_approval(found)])[0]
            if approval.tenant != actor.tenant or approval.requested_by != actor.user:
                raise not_found(approval.approval_id)
            if approval.approval_id == values["approval_id"]:
                open_transaction.append(
                    AuditKind.APPROVAL_REQUESTED,
                    request_id=approval.request_id,
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
                    quorum=quorum,
                    verified_only=approval.verified_only,
                    reason=reason,
                    expires_at=approval.expires_at,
                )
        return at_time(approval, now)

    def approve(self, approval_id: str, by: Actor, reason: str = "") -> Approval:
        """Answer yes; the approval stays waiting until as many said so as it asks for.

        Raises:
            ApprovalError: The answer breaks a rule, or somebody else answered first.
        """
        return self._answer(approval_id, by, reason, approve=True)

    def reject(self, approval_id: str, by: Actor, reason: str) -> Approval:
        """Answer no, with a reason; raises as `approve`."""
        return self._answer(approval_id, by, reason, approve=False)

    def edit(
        self, approval_id: str, by: Actor, arguments: Mapping[str, Any], reason: str
    ) -> Approval:
        """Answer with other arguments: yes to the edited call, no to the one that was asked about.

        An edit is a new decision. The edited call gets an approval of its own, which this returns,
        with `by`'s yes; the runtime takes it through contract and policies before it runs, and
        refuses it if they forbid it or want another role's or more people's approval for it.

        Raises:
            ApprovalError: The edit breaks a rule, its arguments cannot be bound to a digest, or
                this very call was there before.
        """
        now = self._clock()
        new_id = f"apr-{uuid.uuid4().hex}"
        with self._transaction(None) as transaction:
            connection = transaction.connection
            before = self._lock(connection, approval_id)
            digest = _digest(before, arguments)
            edited, made = edit(
                before,
                by=by,
                arguments=arguments,
                action_digest=digest,
                new_id=new_id,
                reason=spell_field(reason) or "",
                now=now,
                require_verified=self._insists,
            )
            self._write(connection, before, edited)
            self._insert_edited(connection, made)
            transaction.append(
                AuditKind.APPROVAL_EDITED,
                **_facts(edited, by),
                reason=edited.answer_reason,
                replaced_by=new_id,
                edited_action_digest=digest,
                arguments_digest=sha256_of_json(dict(before.arguments)),
                edited_arguments_digest=sha256_of_json(dict(made.arguments)),
                edited_names=_changed(before.arguments, made.arguments),
            )
            self._record_vote(transaction, made, by)
        return made

    def claim(self, approval_id: str, by: Actor, *, seconds: float = 900.0) -> Approval:
        """Reserve a waiting approval, so that nobody else answers it meanwhile.

        Args:
            approval_id: Its id.
            by: Who looks at it.
            seconds: For how long; claiming again extends it.

        Raises:
            ApprovalError: `by` may not answer it, or somebody else has claimed it.
        """
        now = self._clock()
        with self._transaction(None) as transaction:
            before = self._lock(transaction.connection, approval_id)
            after = claim(before, by=by, seconds=seconds, now=now, require_verified=self._insists)
            self._write(transaction.connection, before, after)
            transaction.append(
                AuditKind.APPROVAL_CLAIMED, **_facts(after, by), claimed_until=after.claimed_until
            )
        return after

    def release(self, approval_id: str, by: Actor) -> Approval:
        """Give a claim back before it lapses; raises as `claim`."""
        now = self._clock()
        with self._transaction(None) as transaction:
            before = self._lock(transaction.connection, approval_id)
            after = release(before, by=by, now=now)
            self._write(transaction.connection, before, after)
            transaction.append(AuditKind.APPROVAL_CLAIMED, **_facts(after, by), claimed_until=None)
        return after

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
            transaction: Join this one, e.g. the one that records that the tool starts.

        Raises:
            ApprovalError: It is about another action, not approved, expired, or used already.
        """
        now = self._clock()
        with self._transaction(transaction) as open_transaction:
            connection = open_transaction.connection
            before = self._lock(connection, approval_id)
            after = execute(before, action_digest=action_digest, now=now)
            self._write(connection, before, after)
        return after

    @property
    def _insists(self) -> bool:
        return self._require_verified is True

    def _answer(self, approval_id: str, by: Actor, reason: str, *, approve: bool) -> Approval:
        now = self._clock()
        with self._transaction(None) as transaction:
            before = self._lock(transaction.connection, approval_id)
            after = answer(
                before,
                by=by,
                approve=approve,
                reason=spell_field(reason) or "",
                now=now,
                require_verified=self._insists,
            )
            self._write(transaction.connection, before, after)
            self._record_vote(transaction, after, by)
        return after

    @staticmethod
    def _record_vote(transaction: AuditTransaction, after: Approval, by: Actor) -> None:
        vote = after.votes[-1]
        transaction.append(
            AuditKind.APPROVAL_ANSWERED,
            **_facts(after, by),
            vote="yes" if vote.yes else "no",
            state=after.state.value,
            yeses=after.yeses,
            quorum=after.quorum,
            reason=vote.reason,
            requested_by=after.requested_by,
            edited_from=after.edited_from,
        )

    def _insert_edited(self, connection: Connection, made: Approval) -> None:
        values = {name: getattr(made, name) for name in FIELDS}
        values["arguments"] = spell_arguments(made.arguments)
        values["state"] = made.state.value
        connection.execute(self._insert(approvals).values(values).on_conflict_do_nothing())
        own = select(approvals.c.approval_id).where(approvals.c.approval_id == made.approval_id)
        if connection.execute(own).first() is None:
            raise ApprovalError(
                "this very call was asked about before and edited away",
                where=f"approval {made.edited_from}",
                hint="Choose other arguments, or reject it.",
            )
        insert_votes(connection, made.approval_id, made.votes)

    def _write(self, connection: Connection, before: Approval, after: Approval) -> None:
        """Write `after` over the locked row, if it is still as `before`."""
        values = {name: getattr(after, name) for name in CHANGING}
        values["state"] = after.state.value
        changed = connection.execute(
            update(approvals)
            .where(
                approvals.c.approval_id == before.approval_id,
                approvals.c.state == before.state.value,
            )
            .values(values)
        )
        if changed.rowcount != 1:
            raise ApprovalError("somebody else was quicker", where=f"approval {before.approval_id}")
        insert_votes(connection, before.approval_id, after.votes[len(before.votes) :])

    def _insert(self, table: Table) -> Any:
        return (sqlite_insert if self._store.dialect == "sqlite" else postgres_insert)(table)

    @staticmethod
    def _lock(connection: Connection, approval_id: str) -> Approval:
        # Other transactions that want this row wait for this one: two votes that do not see each
        # other could leave an approval waiting for a vote it already has. (SQLite has one writer.)
        return read_one(connection, approval_id, lock=True)

    @contextmanager
    def _transaction(self, given: AuditTransaction | None) -> Iterator[AuditTransaction]:
        if given is not None:
            yield given
            return
        with self._audit.transaction() as transaction:
            yield transaction


def _facts(approval: Approval, by: Actor) -> dict[str, Any]:
    """What every event about an approval says."""
    return {
        "request_id": approval.request_id,
        "session_id": approval.session_id,
        "actor": by,
        "agent": approval.agent,
        "agent_digest": approval.agent_digest,
        "approval_id": approval.approval_id,
        "action_digest": approval.action_digest,
        "tool": approval.tool,
        "call_id": approval.call_id,
    }


def _digest(approval: Approval, arguments: Mapping[str, Any]) -> str:
    where = f"approval {approval.approval_id}"
    if not isinstance(arguments, Mapping):
        raise ApprovalError("the arguments are not an object", where=where)
    call = ToolCall(approval.call_id, approval.tool, arguments, approval.session_id)
    try:
        return call.action_digest(
            agent_digest=approval.agent_digest, policy_digest=approval.policy_digest
        )
    except (ValueError, TypeError) as error:
        raise ApprovalError(f"the edited call cannot be approved: {error}", where=where) from error


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    missing = object()
    names = sorted({*before, *after})
    return [name for name in names if before.get(name, missing) != after.get(name, missing)]
