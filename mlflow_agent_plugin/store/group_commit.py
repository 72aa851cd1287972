"""The write connection of an SQLite store: threads take turns, and share commits.

SQLite has one writer at a time, and a durable commit waits for the disk. So the threads of a
process queue for one connection, and where several wait, their transactions go to disk in one
commit.

Rules:
- A block runs alone, and all of it is committed or nothing: a block that joins an open commit
  runs in a savepoint of its own.
- A transaction returns only after the commit that holds it: acknowledged means durable.
- If the commit fails, it failed for every block in it.
- Nobody waits for company: a thread that finds no other waiting commits at once.
- A transaction begins and ends at the driver. SQLAlchemy's own idea of one does nothing here; going
  through it twice for every tool call would cost more than the statements do.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

MAX_BLOCKS = 32
"""Blocks that share one commit, at most."""

MAX_OPEN_SECONDS = 0.05
"""How long a commit waits for more blocks while others queue."""

CACHE_KIBIBYTES = 16 * 1024
"""Pages of the database the write connection keeps in memory.

An event's place in the index of requests is anywhere: with SQLite's own 2 MiB each tool call of a
grown store would read a page of it again.
"""

_LOOK_AGAIN_SECONDS = 0.05


class NoTurnError(Exception):
    """Other threads kept the connection for too long."""


@dataclass
class _Commit:
    """One transaction of the database, with the blocks that ended well in it.

    Attributes:
        since: When it was opened, on the monotonic clock.
        ended: It is committed, or `error` says why not.
        told: Set when it has ended; None as long as nobody waits for that.
    """

    since: float
    blocks: int = 0
    ended: bool = False
    error: BaseException | None = None
    told: threading.Event | None = None


class GroupCommit:
    """The write connection.

    Args:
        engine: Opens it; "begin" of its connections must do nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self._waiting = 0
        self._connection: Connection | None = None
        self._raw: Any = None
        self._open: _Commit | None = None

    def enter(self, timeout_seconds: float) -> tuple[_Commit, Connection]:
        """Take the turn and begin a block; `leave` has to follow.

        Raises:
            NoTurnError: Other threads kept the connection for `timeout_seconds`.
        """
        self._take_turn(timeout_seconds)
        try:
            return self._begin()
        except BaseException:
            self._hand_over()
            raise

    def leave(self, commit: _Commit, *, failed: bool) -> None:
        """End the block and give the turn away; returns when the block is durable, or undone.

        Raises:
            sqlite3.Error: The commit failed, and with it every block in it.
        """
        try:
            if failed:
                self._undo(commit)
            else:
                commit.blocks += 1
        finally:
            self._hand_over()
        if failed:
            return
        if not commit.ended and commit.told is not None:
            while not commit.told.wait(_LOOK_AGAIN_SECONDS):
                self._commit_if_left()
        if commit.error is not None:
            raise commit.error

    def hold(self) -> bool:
        """Close the idle connection and keep everybody out; False if it is in use."""
        if not self._turn.acquire(blocking=False):
            return False
        if self._open is not None:
            self._turn.release()
            return False
        self._drop_connection()
        return True

    def let_go(self) -> None:
        """End `hold`."""
        self._turn.release()

    def close(self) -> None:
        """Close the connection if nobody uses it; the next transaction opens another."""
        if self.hold():
            self.let_go()

    def _take_turn(self, timeout_seconds: float) -> None:
        if self._turn.acquire(blocking=False):
            return
        with self._count:
            self._waiting += 1
        try:
            taken = self._turn.acquire(timeout=timeout_seconds)
        finally:
            with self._count:
                self._waiting -= 1
        if not taken:
            raise NoTurnError

    def _begin(self) -> tuple[_Commit, Connection]:
        """Open a commit, or a savepoint in the open one."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._engine.connect()
            self._raw = connection.connection.dbapi_connection
            try:
                self._raw.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
            except BaseException:
                self._drop_connection()
                raise
        if not connection.in_transaction():
            # So that whoever joins (an ORM session) takes it for the transaction of somebody else.
            connection.begin()
        if self._open is None:
            try:
                self._raw.execute("BEGIN IMMEDIATE")
            except BaseException:
                self._drop_connection()
                raise
            self._open = _Commit(time.monotonic())
        elif self._open.blocks:
            self._raw.execute("SAVEPOINT block")
        return self._open, connection

    def _undo(self, commit: _Commit) -> None:
        """Take back what a block that raised did, and only that."""
        if commit.blocks:
            try:
                self._raw.execute("ROLLBACK TO block")
            except BaseException as error:
                self._end(commit, error)
            return
        self._open = None
        try:
            self._raw.rollback()
        except sqlite3.Error:
            self._drop_connection()

    def _hand_over(self) -> None:
        """Commit unless somebody is about to join, and give the turn away."""
        try:
            commit = self._open
            if commit is not None:
                young = time.monotonic() - commit.since < MAX_OPEN_SECONDS
                if self._waiting and young and commit.blocks < MAX_BLOCKS:
                    commit.told = commit.told or threading.Event()
                else:
                    self._end(commit)
        finally:
            self._turn.release()

    def _commit_if_left(self) -> None:
        """Commit if whoever was to join did not come."""
        if self._turn.acquire(blocking=False):
            try:
                if self._open is not None:
                    self._end(self._open)
            finally:
                self._turn.release()

    def _end(self, commit: _Commit, error: BaseException | None = None) -> None:
        self._open = None
        try:
            if error is None:
                _check_open(self._raw)
                self._raw.commit()
        except BaseException as failure:  # noqa: BLE001 - told to everybody who waits
            error = failure
        if error is not None:
            with suppress(Exception):
                self._raw.rollback()
            self._drop_connection()
        commit.error = error
        commit.ended = True
        if commit.told is not None:
            commit.told.set()

    def _drop_connection(self) -> None:
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _check_open(raw: sqlite3.Connection) -> None:
    # After some errors (disk full, I/O) SQLite rolls back by itself; a commit would then say yes
    # to nothing.
    if not raw.in_transaction:
        raise sqlite3.OperationalError("the database rolled the transaction back by itself")
