"""Connections to PostgreSQL that writers keep between two transactions.

To take a connection out of SQLAlchemy's pool, begin there, commit there and give it back costs more
than a tool call's statements do. A writer that comes back within seconds finds the connection as
another one left it.

Rules:
- A connection is kept only as its writer got it: committed, nothing deferred, no savepoint, no
  options of its own. Whatever failed or is otherwise goes back to the pool, which cleans it.
- SQLAlchemy takes each for one long transaction; where the real ones begin and end is the business
  of `store.pipeline`. A block that ended SQLAlchemy's has not been committed (`check`).
- Nobody waits for a connection that is merely kept: whoever takes one out of the pool says so
  (`wanted`), and gets those first if the pool has no idle one.
- The pool's own checks stay: it is told for how long a kept connection was idle, and gets it back
  after a minute, to look at its age. Once SQLAlchemy found any connection of the pool lost, those
  kept until then are taken for lost too.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.pool import Pool, QueuePool

from mlflow_agent_plugin.store.driver import end_pipeline, is_between_transactions

IDLE_SINCE = "agents_idle_since"
"""Key in a connection's `info`: since when it was idle before the pool got it back."""

IDLE_SECONDS = 2.0
"""How long a kept connection is taken for alive; the pool tries what was idle for longer."""

KEPT_SECONDS = 60.0
"""How long a connection stays out of the pool, which looks at its age when it takes it out."""


@dataclass
class Held:
    """A connection that one write transaction has, or that is kept for the next.

    Attributes:
        connection: In `transaction`, which is SQLAlchemy's.
        pool: Where it came from; `Engine.dispose` makes another one.
        options: The connection's execution options.
        lender: The `HeldConnections` as they were when it was taken; a fork makes others.
        taken_at: When it was taken out of the pool, on the monotonic clock.
        returned_at: When the last transaction gave it back.
    """

    connection: Connection
    transaction: RootTransaction
    pool: Pool
    options: object
    lender: object
    taken_at: float
    returned_at: float

    def check(self) -> None:
        """Make sure that what the block did can be committed.

        Raises:
            InvalidRequestError: The block, or somebody it passed the connection to, ended the
                transaction: a part of the block is lost.
        """
        if not self._is_open:
            raise InvalidRequestError("the transaction was ended within its block")

    @property
    def is_clean(self) -> bool:
        """Whether nothing of any transaction is left, in the database or on this side."""
        return (
            self._is_open
            and not self.connection.in_nested_transaction()
            and self.connection.get_execution_options() is self.options
            and is_between_transactions(self.connection)
        )

    @property
    def _is_open(self) -> bool:
        open_ = self.connection.get_transaction()
        return open_ is self.transaction and open_.is_active and not self.connection.invalidated


class HeldConnections:
    """Lends connections for one write transaction each.

    Args:
        engine: Opens them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: deque[Held] = deque()
        self._wanted: deque[None] = deque()  # as many as want one; counting this way needs no lock
        self._lost_at = -math.inf
        me = weakref.ref(self)

        # The pool knows its listeners: it must not keep the connections alive that keep it.
        def note_loss(*_: Any) -> None:
            held = me()
            if held is not None:
                held._lost_at = time.monotonic()  # noqa: SLF001 - its own

        event.listen(engine, "invalidate", note_loss)

    def take(self) -> Held:
        """Return a connection on which no transaction has begun in the database.

        Raises:
            SQLAlchemyError: The database cannot be reached, or every connection is in use.
        """
        now = time.monotonic()
        while (held := self._pop()) is not None:
            fresh = now - held.returned_at < IDLE_SECONDS and now - held.taken_at < KEPT_SECONDS
            alive = held.returned_at > self._lost_at and held.pool is self._engine.pool
            if fresh and alive and held.is_clean:
                return held
            self._release(held)
        with self.wanted():
            connection = self._engine.connect()
        try:
            transaction = connection.begin()
        except BaseException:
            connection.close()
            raise
        return Held(
            connection,
            transaction,
            self._engine.pool,
            connection.get_execution_options(),
            self._kept,
            now,
            now,
        )

    def end(self, held: Held, *, failed: bool) -> None:
        """Commit or roll back, and end the use of the connection.

        Raises:
            SQLAlchemyError: It could not be committed: nothing of the block was.
        """
        try:
            if not failed:
                held.check()
                end_pipeline(held.connection, failed=False)
        except BaseException:
            failed = True
            raise
        finally:
            if not failed:
                self.keep(held)
            else:
                try:
                    _take_back(held.connection)
                finally:
                    held.connection.close()

    def keep(self, held: Held) -> None:
        """End the use of a connection whose transaction was committed."""
        if held.lender is not self._kept:  # the parent's, in a forked child
            _of_parents.append(held)
        elif held.pool is not self._engine.pool:  # closed meanwhile: nobody will take it from there
            held.connection.invalidate()
            held.connection.close()
        elif self._beyond_pool or not held.is_clean:
            held.connection.close()
        else:
            held.returned_at = time.monotonic()
            self._kept.append(held)
            if self._wanted:
                self.close()

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Take a connection out of the pool in this block: what is merely kept is in nobody's way.

        Others may be on their way to a connection that counts as idle, so with company all are
        given back.
        """
        self._wanted.append(None)
        try:
            pool = self._pool
            if self._kept and (len(self._wanted) > 1 or pool.checkedout() >= pool.size()):
                self.close()
            yield
        finally:
            self._wanted.pop()

    def close(self) -> None:
        """Give every kept connection back to the pool."""
        while (held := self._pop()) is not None:
            self._release(held)

    def forget(self) -> None:
        """Leave the connections to the parent: this is a forked child."""
        _of_parents.extend(self._kept)
        self._kept = deque()
        self._wanted = deque()

    def _release(self, held: Held) -> None:
        connection = held.connection
        try:
            if held.returned_at <= self._lost_at:
                connection.invalidate()
            elif not connection.invalidated:
                connection.info[IDLE_SINCE] = held.returned_at
        except SQLAlchemyError:  # somebody closed it after its block
            return
        connection.close()

    def _pop(self) -> Held | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None

    @property
    def _pool(self) -> QueuePool:
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        return pool

    @property
    def _beyond_pool(self) -> bool:
        """Whether connections are in use that the pool opened beyond its usual number."""
        return self._pool.checkedout() > self._pool.size()


def _take_back(connection: Connection) -> None:
    """Roll back; a connection that cannot is gone, and its transaction with it."""
    with suppress(SQLAlchemyError):
        end_pipeline(connection, failed=True)
        transaction = connection.get_transaction()
        if transaction is not None:
            transaction.rollback()


_of_parents: list[Held] = []
"""Kept for ever: an object that ends would end its transaction, on the parent's socket."""
