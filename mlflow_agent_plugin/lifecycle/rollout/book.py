"""Rollouts in the runtime store: every front end splits by them and counts into them.

Rules:
- One open rollout per model and stable slot.
- What was seen so far and the decision stand in the rollout's row and change under its lock, in one
  transaction with the session that was counted: whichever process sees the last straw stops the
  rollout for all of them, once.
- A session is given to a version once; one that was there before the rollout stays where it is and
  is not counted.
- Every change of state is audited in its own transaction.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import NotFoundError, RequestError
from mlflow_agent_plugin.lifecycle.rollout.judging import TurnVerdict
from mlflow_agent_plugin.lifecycle.rollout.plan import (
    Arm,
    OnSuccess,
    RegistryStep,
    Rollout,
    RolloutMode,
    RolloutPlan,
    RolloutState,
)
from mlflow_agent_plugin.lifecycle.stopping import (
    RolloutDecision,
    RolloutVerdict,
    RolloutWatch,
    StopRules,
)
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.tables import rollout_sessions, rollouts, sessions
from mlflow_agent_plugin.trust import AuditKind, AuditLog

if TYPE_CHECKING:
    from sqlalchemy import Row

SYSTEM = Actor(user="stop rules", tenant="default")
"""Who is on record when the rules decide."""

MAX_TEXT_CHARS = 1000


class RolloutBook:
    """The rollouts of a store.

    Args:
        store: Where they are kept.
        clock: Time of changes.
        audit: Records each change; default: a log of its own.
    """

    def __init__(
        self, store: Store, *, clock: Clock = utc_now, audit: AuditLog | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit or AuditLog(store, clock=clock)

    def close(self) -> None:
        """Seal the audit; the store stays open."""
        self._audit.close()

    def start(
        self,
        model: str,
        plan: RolloutPlan,
        *,
        incumbent_version: int,
        candidate_version: int,
        candidate_digest: str,
        by: Actor,
    ) -> Rollout:
        """Open a rollout; the caller has checked what stands in the two slots.

        Raises:
            RequestError: One is open for this model and slot.
        """
        now = self._clock()
        values = {
            "rollout_id": f"rol-{uuid.uuid4().hex[:16]}",
            "model": model,
            "stable_slot": plan.stable_slot,
            "candidate_slot": plan.candidate_slot,
            "mode": plan.mode.value,
            "share": plan.share,
            "rules": json.dumps(asdict(plan.rules())),
            "on_success": plan.on_success.value,
            "incumbent_version": incumbent_version,
            "candidate_version": candidate_version,
            "candidate_digest": candidate_digest,
            "state": RolloutState.RUNNING.value,
            "reason": "started",
            "watch": json.dumps(RolloutWatch(plan.rules()).to_dict()),
            "registry_step": RegistryStep.NONE.value,
            "registry_note": "",
            "started_by": by.user,
            "started_at": now,
            "changed_at": now,
            "open_for": f"{model}\n{plan.stable_slot}",
        }
        with self._audit.transaction() as transaction:
            connection = transaction.connection
            taken = connection.execute(
                select(rollouts.c.rollout_id).where(rollouts.c.open_for == values["open_for"])
            ).scalar()
            if taken is not None:
                raise RequestError(
                    f"rollout {taken} is open for {model} {plan.stable_slot}",
                    hint="Wait for it, or stop it.",
                )
            connection.execute(insert(rollouts).values(values))
            found = _read(self._row(connection, str(values["rollout_id"])))
            transaction.append(
                AuditKind.ROLLOUT_STARTED,
                actor=by,
                agent_digest=candidate_digest,
                rollout=found.to_dict(),
            )
        return found

    def get(self, rollout_id: str) -> Rollout:
        """Return a rollout.

        Raises:
            NotFoundError: There is none of that name.
        """
        with self._store.read() as connection:
            return _read(self._row(connection, rollout_id))

    def list(self, model: str | None = None, *, limit: int = 100) -> list[Rollout]:
        """Return the latest rollouts, of one model if named."""
        query = select(rollouts).order_by(rollouts.c.started_at.desc()).limit(limit)
        if model is not None:
            query = query.where(rollouts.c.model == model)
        with self._store.read() as connection:
            return [_read(row) for row in connection.execute(query)]

    def unfinished(self) -> Sequence[Rollout]:
        """Return what is open, or still has something to do in the registry."""
        query = select(rollouts).where(
            or_(rollouts.c.open_for.is_not(None), rollouts.c.registry_step != "")
        )
        with self._store.read() as connection:
            return [_read(row) for row in connection.execute(query)]

    # --- traffic ---------------------------------------------------------------------------------

    def assign(self, rollout: Rollout, session_id: str, *, draws: bool = True) -> Arm:
        """Return which version takes a conversation; drawn at its first turn, then kept.

        Args:
            rollout: An open rollout.
            session_id: The conversation.
            draws: False where the candidate is not at hand: a new conversation then goes to the
                incumbent and is not counted.
        """
        known = (
            select(rollout_sessions.c.arm)
            .where(rollout_sessions.c.rollout_id == rollout.rollout_id)
            .where(rollout_sessions.c.session_id == session_id)
        )
        with self._store.read() as connection:
            found = connection.execute(known).scalar()
            if found is not None:
                return Arm(found)
            older = connection.execute(
                select(sessions.c.session_id).where(sessions.c.session_id == session_id)
            ).first()
        if older is not None or not draws:
            return Arm.INCUMBENT
        arm = Arm.CANDIDATE if rollout.takes(session_id) else Arm.INCUMBENT
        make = sqlite.insert if self._store.dialect == "sqlite" else postgresql.insert
        values = {
            "rollout_id": rollout.rollout_id,
            "session_id": session_id,
            "arm": arm.value,
            "assigned_at": self._clock(),
        }
        with self._store.begin() as connection:
            # Two processes may see the first turn at once: both draw the same.
            connection.execute(make(rollout_sessions).values(values).on_conflict_do_nothing())
        return arm

    def count(
        self, rollout_id: str, session_id: str, arm: Arm, verdict: TurnVerdict
    ) -> RolloutDecision | None:
        """Take what a canary's turn said; return what to do, None if it was not counted."""
        incidents = verdict.incidents if arm is Arm.CANDIDATE else ()
        if not verdict.ended and not incidents:
            return None
        results = [(arm, verdict)] if verdict.ended else []
        return self._watch(rollout_id, session_id, results, incidents)

    def compare(
        self, rollout_id: str, session_id: str, *, incumbent: TurnVerdict, candidate: TurnVerdict
    ) -> RolloutDecision | None:
        """Take what both versions said to the same turn of a shadow."""
        results = []
        if incumbent.ended and candidate.ended:
            results = [(Arm.CANDIDATE, candidate), (Arm.INCUMBENT, incumbent)]
        if not results and not candidate.incidents:
            return None
        return self._watch(rollout_id, session_id, results, candidate.incidents)

    def report_incident(self, rollout_id: str, kind: str, *, by: Actor) -> RolloutDecision | None:
        """Take a safety incident of the candidate that a person or a monitor saw.

        Raises:
            NotFoundError: There is no such rollout.
            RequestError: `kind` says nothing.
        """
        if not kind.strip():
            raise RequestError("is empty", where="kind")
        self.get(rollout_id)
        return self._watch(rollout_id, None, [], (kind,), by=by)

    def _watch(
        self,
        rollout_id: str,
        session_id: str | None,
        results: Sequence[tuple[Arm, TurnVerdict]],
        incidents: Sequence[str],
        *,
        by: Actor = SYSTEM,
    ) -> RolloutDecision | None:
        with self._audit.transaction() as transaction:
            connection = transaction.connection
            rollout = _read(self._row(connection, rollout_id, lock=True))
            if not rollout.is_open:
                return None
            watch = RolloutWatch.from_dict(rollout.numbers, rollout.rules)
            before = watch.decide()
            if (
                session_id is not None
                and results
                and not self._mark(connection, rollout, session_id)
            ):
                results = []
            for arm, verdict in results:
                watch.session(
                    candidate=arm is Arm.CANDIDATE, success=verdict.success, error=verdict.error
                )
            for kind in incidents:
                watch.incident(kind[:MAX_TEXT_CHARS])
                transaction.append(
                    AuditKind.ROLLOUT_INCIDENT,
                    actor=by,
                    session_id=session_id,
                    rollout_id=rollout_id,
                    incident=kind[:MAX_TEXT_CHARS],
                )
            decision = watch.decide()
            self._write(connection, rollout_id, watch=json.dumps(watch.to_dict()))
            if decision.verdict is not before.verdict or decision.verdict is RolloutVerdict.STOP:
                self._decide(transaction, rollout, decision, by=by)
            return decision

    def _mark(self, connection: Connection, rollout: Rollout, session_id: str) -> bool:
        """Count a session now; return False if it was counted before, or is not of this rollout."""
        marked = connection.execute(
            update(rollout_sessions)
            .where(rollout_sessions.c.rollout_id == rollout.rollout_id)
            .where(rollout_sessions.c.session_id == session_id)
            .where(rollout_sessions.c.counted_at.is_(None))
            .values(counted_at=self._clock())
        )
        return bool(marked.rowcount == 1)

    def _decide(
        self, transaction: Any, rollout: Rollout, decision: RolloutDecision, *, by: Actor
    ) -> None:
        reason = "; ".join(decision.reasons)
        if decision.verdict is RolloutVerdict.STOP:
            self._close(transaction, rollout, RolloutState.STOPPED, reason, by=by)
        elif decision.verdict is RolloutVerdict.READY and rollout.state is RolloutState.RUNNING:
            step = (
                RegistryStep.PROMOTE
                if rollout.on_success is OnSuccess.PROMOTE
                else RegistryStep.NONE
            )
            self._change(
                transaction, rollout, RolloutState.READY, reason, by=by, registry_step=step.value
            )

    # --- decisions from outside ------------------------------------------------------------------

    def stop(self, rollout_id: str, *, reason: str, by: Actor) -> Rollout:
        """Send everything back to the incumbent; one that is over stays as it is.

        Raises:
            NotFoundError: There is no such rollout.
            RequestError: There is no reason.
        """
        if not reason.strip():
            raise RequestError("is empty", where="reason", hint="Say why; it stands in the audit.")
        with self._audit.transaction() as transaction:
            rollout = _read(self._row(transaction.connection, rollout_id, lock=True))
            if rollout.is_open:
                self._close(transaction, rollout, RolloutState.STOPPED, reason, by=by)
            return _read(self._row(transaction.connection, rollout_id))

    def promoted(self, rollout_id: str, *, reason: str, by: Actor) -> None:
        """Note that the stable slot points to the candidate now."""
        with self._audit.transaction() as transaction:
            rollout = _read(self._row(transaction.connection, rollout_id, lock=True))
            if rollout.is_open:
                self._close(transaction, rollout, RolloutState.PROMOTED, reason, by=by)

    def note(self, rollout_id: str, text: str, *, done: bool, by: Actor) -> None:
        """Note how what a rollout asked of the registry went."""
        text = text[:MAX_TEXT_CHARS]
        with self._audit.transaction() as transaction:
            rollout = _read(self._row(transaction.connection, rollout_id, lock=True))
            values: dict[str, Any] = {"registry_note": text}
            if done:
                values["registry_step"] = RegistryStep.NONE.value
            self._write(transaction.connection, rollout_id, **values)
            if done or text != rollout.registry_note:
                transaction.append(
                    AuditKind.ROLLOUT_REGISTRY,
                    actor=by,
                    rollout_id=rollout_id,
                    step=rollout.registry_step.value,
                    done=done,
                    note=text,
                )

    def _close(
        self, transaction: Any, rollout: Rollout, state: RolloutState, reason: str, *, by: Actor
    ) -> None:
        step = RegistryStep.RETIRE if state is RolloutState.STOPPED else RegistryStep.NONE
        self._change(
            transaction, rollout, state, reason, by=by, open_for=None, registry_step=step.value
        )

    def _change(
        self,
        transaction: Any,
        rollout: Rollout,
        state: RolloutState,
        reason: str,
        *,
        by: Actor,
        **more: Any,
    ) -> None:
        self._write(
            transaction.connection,
            rollout.rollout_id,
            state=state.value,
            reason=reason[:MAX_TEXT_CHARS],
            **more,
        )
        now = _read(self._row(transaction.connection, rollout.rollout_id))
        transaction.append(
            AuditKind.ROLLOUT_DECIDED,
            actor=by,
            agent_digest=rollout.candidate_digest,
            rollout=now.to_dict(),
        )

    def _write(self, connection: Connection, rollout_id: str, **values: Any) -> None:
        connection.execute(
            update(rollouts)
            .where(rollouts.c.rollout_id == rollout_id)
            .values(changed_at=self._clock(), **values)
        )

    @staticmethod
    def _row(connection: Connection, rollout_id: str, *, lock: bool = False) -> Row[Any]:
        query = select(rollouts).where(rollouts.c.rollout_id == rollout_id)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise NotFoundError("there is no such rollout", where=rollout_id[:80])
        return row


def _read(row: Row[Any]) -> Rollout:
    data = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    data.pop("open_for")
    data["numbers"] = json.loads(data.pop("watch"))
    data["rules"] = StopRules(**json.loads(data["rules"]))
    return Rollout(
        **{
            **data,
            "mode": RolloutMode(data["mode"]),
            "on_success": OnSuccess(data["on_success"]),
            "state": RolloutState(data["state"]),
            "registry_step": RegistryStep(data["registry_step"]),
        }
    )
