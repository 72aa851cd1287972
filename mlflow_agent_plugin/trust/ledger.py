"""The effect ledger: a tool that changes the world runs at most once per call.

Rules:
- Before it runs, a call's key is claimed; of any number of claims exactly one is "new", and only
  that one may run the tool.
- A call that ended is replayed ("done"), with its result or its error: it never runs again.
- A call that was claimed and never ended is "in_doubt": its worker died, or still runs. It is
  never repeated by itself. A human says what happened (`resolve`); a tool whose contract is
  idempotent may be run again under the same key (`take_over`), by the session's lease holder.
- A key stands for one exact call: claiming it for another tool or other arguments is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import ToolCallError
from mlflow_agent_plugin.store.driver import DriverStatement, UnexpectedRowsError, bind_time
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import effect_runs, effects
from mlflow_agent_plugin.trust.spelling import spell_field


class ClaimStatus(str, Enum):
    """What a claimant may do."""

    NEW = "new"
    DONE = "done"
    IN_DOUBT = "in_doubt"


class _State(str, Enum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Claim:
    """The answer to a claim.

    Attributes:
        key: ``<session id>:<call id>``.
        status: "new": run it. "done": replay `result`, or `error` if that is set. "in_doubt":
            neither run nor replay.
        result: What the tool gave, when it ended well.
        error: Why it failed, when it did; with a `result`: it took effect, but what it gave cannot
            be used.
        resolved_by: The human who said how it ended, None if the tool itself ended it.
        owner: Who runs or ran it.
        attempts: How often it was started.
    """

    key: str
    status: ClaimStatus
    tool: str
    owner: str
    attempts: int
    started_at: datetime
    result: Any = None
    error: str | None = None
    finished_at: datetime | None = None
    resolved_by: str | None = None


class EffectLedger:
    """The effects of a store.

    Args:
        store: Where they are kept.
        clock: Time of claims and ends.
    """

    def __init__(self, store: Store, clock: Clock = utc_now) -> None:
        self._store = store
        self._clock = clock

    def claim(
        self,
        key: str,
        *,
        tool: str,
        arguments_digest: str,
        owner: str,
        connection: Connection | None = None,
        optimistic: bool = False,
    ) -> Claim:
        """Ask to run a call.

        Args:
            key: ``<session id>:<call id>``.
            tool: Contract name.
            arguments_digest: `sha256_of_json` of the arguments.
            owner: Who would run it (the turn's lease owner).
            connection: Join this write transaction: claim and before-event commit together.
            optimistic: Take the claim for new, and wait for no answer of the database.

        Raises:
            ToolCallError: The key was claimed for another call.
            UnexpectedRowsError: By the end of the transaction: it was not new. Claim it again, not
                optimistic.
            StoreError: The store failed: do not run the tool.
        """
        now = self._clock()
        with self._store.begin(connection) as transaction:
            values = (key, tool, arguments_digest, owner, bind_time(now, transaction))
            if optimistic:
                _INSERT.expect(transaction, values, UnexpectedRowsError(key))
            if optimistic or _INSERT.run(transaction, values) == 1:
                return Claim(
                    key=key,
                    status=ClaimStatus.NEW,
                    tool=tool,
                    owner=owner,
                    attempts=1,
                    started_at=now,
                )
            row = self._row(transaction, key)
        if row.tool != tool or row.arguments_digest != arguments_digest:
            raise ToolCallError(
                "the call id was used before, for another call",
                where=f"call {key}",
                hint="The model must give every call an id of its own.",
            )
        if row.state == _State.STARTED.value:
            return _claim(row, ClaimStatus.IN_DOUBT)
        return _claim(row, ClaimStatus.DONE)

    def finish(
        self,
        key: str,
        result: Mapping[str, Any],
        *,
        problem: str | None = None,
        spelled: bytes | None = None,
        connection: Connection | None = None,
        optimistic: bool = False,
    ) -> None:
        """Record what the tool gave.

        Args:
            key: The call.
            result: What the model may see of it.
            problem: Why it cannot be used, although the tool ran; a replay says so again.
            spelled: The result as canonical JSON, if it was spelled already.
            connection: Join this write transaction.
            optimistic: Take the call for running, and wait for no answer of the database.

        Raises:
            ToolCallError: The result is not JSON, or the call does not run (never claimed, or
                ended with another result).
            UnexpectedRowsError: By the end of the transaction: it was not running. Say so again,
                not optimistic.
        """
        try:
            text = _spell(result) if spelled is None else spelled.decode()
        except (TypeError, ValueError, RecursionError) as failure:
            raise ToolCallError(
                f"the tool's result is not JSON: {failure}", where=f"call {key}"
            ) from failure
        error = None if problem is None else spell_field(problem) or "unusable"
        values = {"state": _State.DONE.value, "result": text, "error": error}
        self._end(key, values, connection, optimistic=optimistic)

    def fail(
        self,
        key: str,
        error: str,
        *,
        connection: Connection | None = None,
        optimistic: bool = False,
    ) -> None:
        """Record that the tool failed and is not run again; the rest as `finish`."""
        text = spell_field(error) or "failed"
        values = {"state": _State.FAILED.value, "error": text}
        self._end(key, values, connection, optimistic=optimistic)

    def get(self, key: str) -> Claim | None:
        """Return how a call stands ("done" or "in_doubt"), None if it was never claimed."""
        with self._store.read() as connection:
            row = connection.execute(_SELECT, {"for_key": key}).first()
        if row is None:
            return None
        open_ = row.state == _State.STARTED.value
        return _claim(row, ClaimStatus.IN_DOUBT if open_ else ClaimStatus.DONE)

    def in_doubt(self, *, before: datetime | None = None, limit: int = 1000) -> Sequence[Claim]:
        """Return calls that were claimed (before a time) and never ended, the oldest first."""
        query = select(effects).where(effect_runs)
        if before is not None:
            query = query.where(effects.c.started_at < before)
        query = query.order_by(effects.c.started_at, effects.c.effect_key).limit(limit)
        with self._store.read() as connection:
            return [_claim(row, ClaimStatus.IN_DOUBT) for row in connection.execute(query)]

    def take_over(
        self, key: str, *, owner: str, previous: Claim, connection: Connection | None = None
    ) -> Claim:
        """Run an idempotent call again that is in doubt, under the same key.

        Only the holder of the session's lease may, and only if the tool's contract says idempotent.

        Args:
            key: The call.
            owner: The new runner.
            previous: The claim that was in doubt; nobody may have taken it over since.
            connection: Join this write transaction.

        Raises:
            ToolCallError: It ended or was taken over meanwhile.
        """
        with self._store.begin(connection) as transaction:
            changed = transaction.execute(
                update(effects)
                .where(
                    effects.c.effect_key == key,
                    effects.c.state == _State.STARTED.value,
                    effects.c.owner == previous.owner,
                    effects.c.attempts == previous.attempts,
                )
                .values(owner=owner, attempts=previous.attempts + 1, started_at=self._clock())
            )
            if changed.rowcount != 1:
                raise ToolCallError("it is not in doubt any more", where=f"call {key}")
            row = self._row(transaction, key)
        return _claim(row, ClaimStatus.NEW)

    def resolve(
        self,
        key: str,
        *,
        by: Actor,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
        connection: Connection | None = None,
    ) -> None:
        """Record what a human found out about a call in doubt: its result, or that it failed.

        Raises:
            ToolCallError: Not exactly one of `result` and `error` is given, or it is not in doubt.
        """
        if (result is None) == (error is None):
            raise ToolCallError("give either the result or the error", where=f"call {key}")
        with self._store.begin(connection) as transaction:
            if result is not None:
                self.finish(key, result, connection=transaction)
            else:
                self.fail(key, error or "", connection=transaction)
            transaction.execute(
                update(effects)
                .where(effects.c.effect_key == key)
                .values(resolved_by=spell_field(by.user))
            )

    def _end(
        self,
        key: str,
        values: dict[str, Any],
        connection: Connection | None,
        *,
        optimistic: bool,
    ) -> None:
        with self._store.begin(connection) as transaction:
            ended = (
                values["state"],
                values.get("result"),
                values.get("error"),
                bind_time(self._clock(), transaction),
                key,
            )
            if optimistic:
                _END.expect(transaction, ended, UnexpectedRowsError(key))
            if optimistic or _END.run(transaction, ended) == 1:
                return
            row = transaction.execute(_SELECT, {"for_key": key}).first()
        if row is None:
            raise ToolCallError("it was never claimed", where=f"call {key}")
        same = all(row._mapping[name] == values[name] for name in ("state", "error"))  # noqa: SLF001
        if not same or _respelled(row.result) != _respelled(values.get("result")):
            raise ToolCallError("it already ended, otherwise", where=f"call {key}")

    @staticmethod
    def _row(connection: Connection, key: str) -> Row[Any]:
        return connection.execute(_SELECT, {"for_key": key}).one()


_SELECT = select(effects).where(effects.c.effect_key == bindparam("for_key"))
_INSERT = DriverStatement(
    f"INSERT INTO {effects.name}"  # noqa: S608 - constants
    " (effect_key, tool, arguments_digest, owner, state, attempts, started_at)"
    f" VALUES (?, ?, ?, ?, '{_State.STARTED.value}', 1, ?) ON CONFLICT DO NOTHING"
)
_END = DriverStatement(
    f"UPDATE {effects.name} SET state = ?, result = ?, error = ?, finished_at = ?"  # noqa: S608 - constants
    f" WHERE effect_key = ? AND state = '{_State.STARTED.value}'"
)


def _spell(result: Any) -> str:
    return json.dumps(result, sort_keys=True, allow_nan=False)


def _respelled(text: str | None) -> str | None:
    # A result may have been written in canonical JSON or not.
    return None if text is None else _spell(json.loads(text))


def _claim(row: Row[Any], status: ClaimStatus) -> Claim:
    return Claim(
        key=row.effect_key,
        status=status,
        tool=row.tool,
        owner=row.owner,
        attempts=row.attempts,
        started_at=row.started_at,
        result=None if row.result is None else json.loads(row.result),
        error=row.error,
        finished_at=row.finished_at,
        resolved_by=row.resolved_by,
    )
