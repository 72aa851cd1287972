"""Leases in the runtime store: of all processes on all machines that share it, one may go on.

Rules:
- A lease has one holder until it ends, is released, or its time is up; only its holder renews it.
- Time is the caller's clock: machines that share a store keep their clocks within seconds.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import leases


class LeaseTable:
    """The leases of a store.

    Args:
        store: Where they are.
        clock: Source of time.
    """

    def __init__(self, store: Store, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._clock = clock

    def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease `name`; return whether `holder` has it now.

        Raises:
            StoreError: The store cannot be written; nobody may go on then.
        """
        now = self._clock()
        until = now + timedelta(seconds=seconds)
        row = {"name": name, "holder": holder, "until": until}
        dialect = sqlite if self._store.dialect == "sqlite" else postgresql
        with self._store.begin() as connection:
            made = connection.execute(dialect.insert(leases).values(row).on_conflict_do_nothing())
            if made.rowcount == 1:
                return True
            taken = connection.execute(
                update(leases)
                .where(leases.c.name == name)
                .where(or_(leases.c.holder == holder, leases.c.until <= now))
                .values(holder=holder, until=until)
            )
            return bool(taken.rowcount == 1)

    def renew(self, name: str, holder: str, seconds: float) -> bool:
        """Prolong the lease `name`; False if somebody else took it, even if it is free again.

        Raises:
            StoreError: The store cannot be written.
        """
        until = self._clock() + timedelta(seconds=seconds)
        with self._store.begin() as connection:
            kept = connection.execute(
                update(leases)
                .where(leases.c.name == name)
                .where(leases.c.holder == holder)
                .values(until=until)
            )
            return bool(kept.rowcount == 1)

    def has(self, name: str, holder: str) -> bool:
        """Return whether nobody took the lease `name` from `holder`.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._store.read() as connection:
            row = connection.execute(select(leases.c.holder).where(leases.c.name == name)).first()
        return row is not None and row.holder == holder

    def holder(self, name: str) -> str | None:
        """Return who has the lease `name` now, None if nobody has."""
        with self._store.read() as connection:
            row = connection.execute(
                select(leases.c.holder)
                .where(leases.c.name == name)
                .where(leases.c.until > self._clock())
            ).first()
        return None if row is None else str(row.holder)

    def release(self, name: str, holder: str) -> None:
        """Give the lease up, if `holder` has it."""
        with self._store.begin() as connection:
            connection.execute(
                delete(leases).where(leases.c.name == name).where(leases.c.holder == holder)
            )
