"""Connections to PostgreSQL that writers keep between two transactions.

To take a connection out of SQLAlchemy's pool, begin there, commit there and give it back costs more
than a tool call's statements do. A writer that comes back within seconds finds the connection as
another one left it.

Rules:
- Only a connection whose last transaction was committed is kept; whatever failed goes back to the
  pool, which cleans or replaces it.
- Nobody waits for a connection that is merely kept: none is while the pool has to open connections
  beyond its usual number, and a reader who would make it do so gets the kept ones first.
- Once SQLAlchemy found any connection of the pool lost, those kept until then are lost too.
- A connection goes through the pool's own checks (idle for long, too old) as often as they ask.
- SQLAlchemy takes each for one long transaction; where the real ones begin and end is the business
  of `store.pipeline`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import QueuePool

IDLE_SECONDS = 2.0
"""How long a kept connection is taken for alive; the pool tries what was idle for longer."""

KEPT_SECONDS = 60.0
"""How long a connection stays out of the pool, which looks at its age when it takes it out."""


@dataclass
class Held:
    """A connection that one write transaction has, or that is kept for the next.

    Attributes:
        connection: In a transaction of SQLAlchemy's.
        taken_at: When it was taken out of the pool, on the monotonic clock.
        returned_at: When the last transaction gave it back.
    """

    connection: Connection
    taken_at: float
    returned_at: float


class HeldConnections:
    """Lends connections for one write transaction each.

    Args:
        engine: Opens them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: deque[Held] = deque()
        self._lost_at = -math.inf
        event.listen(engine, "invalidate", self._note_loss)

    def take(self) -> Held:
        """Return a connection on which no transaction has begun in the database.

        Raises:
            SQLAlchemyError: The database cannot be reached, or every connection is in use.
        """
        now = time.monotonic()
        while (held := self._pop()) is not None:
            fresh = now - held.returned_at < IDLE_SECONDS and now - held.taken_at < KEPT_SECONDS
            if fresh and held.returned_at > self._lost_at:
                return held
            held.connection.close()
        connection = self._engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return Held(connection, now, now)

    def keep(self, held: Held) -> None:
        """End the use of a connection whose transaction was committed."""
        if self._checked_out > self._pool.size() or not held.connection.in_transaction():
            held.connection.close()
            return
        held.returned_at = time.monotonic()
        self._kept.append(held)

    def make_room(self) -> None:
        """Give the kept connections to others, if the pool has no idle one."""
        if self._kept and self._checked_out >= self._pool.size():
            self.close()

    def close(self) -> None:
        """Give every kept connection back to the pool."""
        while (held := self._pop()) is not None:
            held.connection.close()

    def forget(self) -> None:
        """Leave the connections to the parent: this is a forked child."""
        _of_parents.append(self._kept)
        self._kept = deque()

    def _note_loss(self, *_: object) -> None:
        self._lost_at = time.monotonic()

    def _pop(self) -> Held | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None

    @property
    def _pool(self) -> QueuePool:
        pool = self._engine.pool  # another one after each `dispose`
        assert isinstance(pool, QueuePool)
        return pool

    @property
    def _checked_out(self) -> int:
        return self._pool.checkedout()


_of_parents: list[deque[Held]] = []
"""Kept for ever: an object that ends would end its transaction, on the parent's socket."""
