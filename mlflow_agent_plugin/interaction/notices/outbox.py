"""What is to be told, kept in the store until it has been.

Rules:
- An event is put once per target, however often it is looked at and by however many processes: the
  row's key is target and event.
- One process sends a row: it claims it first. A definite failure (refused, an error status) is
  tried again, later and later, `MAX_ATTEMPTS` times.
- Where nobody knows whether it arrived (no answer, or the sender died in the middle), it is
  ``unsure``, and sent again only if the target allows that: never twice by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.tables import outbox

MAX_ATTEMPTS = 12
FIRST_WAIT_SECONDS = 5
LONGEST_WAIT_SECONDS = 3600
CLAIM_SECONDS = 120


class Delivery(str, Enum):
    """Where a row is."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    UNSURE = "unsure"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class OutboxRow:
    """One event for one target."""

    target: str
    event_id: str
    event: str
    body: str
    state: Delivery
    attempts: int
    last_error: str

    @property
    def delivery_id(self) -> str:
        """The same for every try."""
        return f"{self.target}:{self.event_id}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "target": self.target,
            "event_id": self.event_id,
            "event": self.event,
            "state": self.state.value,
            "attempts": self.attempts,
            "last_error": self.last_error,
        }


class Outbox:
    """The outbox of a store.

    Args:
        store: Where it is.
        clock: Time.
    """

    def __init__(self, store: Store, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._clock = clock

    def put(self, target: str, event_id: str, event: str, body: str) -> bool:
        """Put an event for a target; return whether it is new."""
        now = self._clock()
        make = sqlite.insert if self._store.dialect == "sqlite" else postgresql.insert
        values = {
            "target": target, "event_id": event_id, "event": event, "body": body,
            "state": Delivery.WAITING.value, "attempts": 0, "last_error": "", "created_at": now,
            "next_at": now,
        }  # fmt: skip
        with self._store.begin() as connection:
            made = connection.execute(make(outbox).values(values).on_conflict_do_nothing())
            return bool(made.rowcount == 1)

    def known(self, target: str, event_ids: Sequence[str]) -> set[str]:
        """Return which of these events were put for a target."""
        query = (
            select(outbox.c.event_id)
            .where(outbox.c.target == target)
            .where(outbox.c.event_id.in_(list(event_ids)))
        )
        with self._store.read() as connection:
            return {str(row.event_id) for row in connection.execute(query)}

    def claim(self, target: str, *, repeat: bool) -> OutboxRow | None:
        """Take the oldest row of a target that is due, None if there is none.

        Args:
            target: Whose.
            repeat: Also what nobody knows the fate of.
        """
        now = self._clock()
        with self._store.begin() as connection:
            # A sender that died in the middle: nobody knows what arrived.
            connection.execute(
                update(outbox)
                .where(outbox.c.target == target)
                .where(outbox.c.state == Delivery.SENDING.value)
                .where(outbox.c.next_at <= now)
                .values(state=Delivery.UNSURE.value, last_error="the sender ended while it sent")
            )
            states = [Delivery.WAITING.value, *([Delivery.UNSURE.value] if repeat else [])]
            row = connection.execute(
                select(outbox)
                .where(outbox.c.target == target)
                .where(outbox.c.state.in_(states))
                .where(outbox.c.next_at <= now)
                .order_by(outbox.c.created_at, outbox.c.event_id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            self._set(
                connection, target, row.event_id, state=Delivery.SENDING.value,
                attempts=row.attempts + 1, next_at=now + timedelta(seconds=CLAIM_SECONDS),
            )  # fmt: skip
        return _read(row, attempts=row.attempts + 1)

    def ended(self, row: OutboxRow, *, error: str | None, unsure: bool = False) -> None:
        """Note how sending went.

        Args:
            row: What was claimed.
            error: What went wrong, None if it arrived.
            unsure: Nobody knows whether it arrived.
        """
        now = self._clock()
        wait = min(FIRST_WAIT_SECONDS * 2 ** (row.attempts - 1), LONGEST_WAIT_SECONDS)
        if error is None:
            state = Delivery.SENT
        elif row.attempts >= MAX_ATTEMPTS:
            state = Delivery.GIVEN_UP
        else:
            state = Delivery.UNSURE if unsure else Delivery.WAITING
        with self._store.begin() as connection:
            self._set(
                connection, row.target, row.event_id, state=state.value,
                last_error=(error or "")[:500], next_at=now + timedelta(seconds=wait),
            )  # fmt: skip

    def list(self, *, limit: int = 100) -> list[OutboxRow]:
        """Return the latest rows."""
        query = select(outbox).order_by(outbox.c.created_at.desc()).limit(limit)
        with self._store.read() as connection:
            return [_read(row) for row in connection.execute(query)]

    @staticmethod
    def _set(connection: Any, target: str, event_id: str, **values: Any) -> None:
        connection.execute(
            update(outbox)
            .where(outbox.c.target == target)
            .where(outbox.c.event_id == event_id)
            .values(values)
        )


def _read(row: Any, *, attempts: int | None = None) -> OutboxRow:
    return OutboxRow(
        target=row.target,
        event_id=row.event_id,
        event=row.event,
        body=row.body,
        state=Delivery(row.state),
        attempts=row.attempts if attempts is None else attempts,
        last_error=row.last_error,
    )
