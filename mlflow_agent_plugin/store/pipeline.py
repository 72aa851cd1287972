"""The write statements of one PostgreSQL connection, sent in libpq's pipeline mode.

One by one, a transaction of two statements takes four round trips (BEGIN, each of them, COMMIT),
and the server parses and plans each anew. Here BEGIN travels with the first statement and COMMIT
with the last, and each statement is prepared once per connection
(https://www.postgresql.org/docs/current/libpq-pipeline-mode.html).

Rules:
- `run` returns after the server has run it; what was only `defer`red is sent with whatever comes
  next, at the latest with the commit, and fails there.
- `commit` returns only if the server committed. One that ended as a rollback is an error: psycopg
  and SQLAlchemy would say yes to it.
- Values go over as text, and a text the server cannot hold is refused before anything is sent.
- An exchange that was broken off closes the connection: nobody can say where it stands.
- What was deferred never outlives its transaction.
- psycopg drops every prepared statement of the connection when it rolls back, ours too. So
  `rollback` goes past it, and whoever rolls back another way calls `forget`. If nobody did, a
  transaction that has just begun is sent once more; one in its middle fails, and the next one runs.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Error, OperationalError, errors, pq


class _Query(NamedTuple):
    """A statement with its values.

    Attributes:
        otherwise: Raised where the server divides by zero: the statement does if it changed no row.
    """

    text: bytes
    values: list[bytes | None]
    otherwise: Exception | None = None


class Pipeline:
    """Statements of one connection.

    Args:
        raw: The psycopg connection. Between two transactions others may use it as they like.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._pg: pq.abc.PGconn = raw.pgconn
        self._selector = _Selector()
        self._selector.register(self._pg.socket, selectors.EVENT_READ)
        self._prepared: dict[bytes, bytes] = {}
        self._numbers = 0
        self._deferred: list[_Query] = []

    def run(self, text: bytes, parameters: Sequence[Any]) -> int:
        """Run a statement within the open transaction, or begin one; return the rows it changed.

        Raises:
            psycopg.Error: It failed, or one deferred before it did.
            UnicodeEncodeError: A value is no text in UTF-8.
        """
        own = _Query(text, _encoded(parameters))
        result = self._exchange([*self._take_deferred(), own])[-1]
        return result.command_tuples or 0

    def defer(
        self, text: bytes, parameters: Sequence[Any], otherwise: Exception | None = None
    ) -> None:
        """Run a statement with the next one or with the commit; nobody asks what it changed.

        Args:
            text: The statement.
            parameters: Its values.
            otherwise: Raised then in place of its division by zero.

        Raises:
            psycopg.DataError: A value cannot be sent.
            UnicodeEncodeError: A value is no text in UTF-8.
        """
        self._deferred.append(_Query(text, _encoded(parameters), otherwise))

    def commit(self) -> None:
        """Commit what was sent and deferred; without any of it, do nothing.

        Raises:
            psycopg.Error: It was not committed, or nobody knows: the connection broke meanwhile.
            Exception: A deferred statement's `otherwise`: it was not committed.
        """
        deferred = self._take_deferred()
        if not deferred and self._pg.transaction_status == pq.TransactionStatus.IDLE:
            return
        ended = self._exchange([*deferred, _Query(_COMMIT, [])])[-1]
        if ended.command_status != _COMMIT:
            raise errors.InFailedSqlTransaction(
                "a statement of the transaction had failed: nothing of it was written"
            )

    def rollback(self) -> None:
        """Roll back what was sent, and drop what was deferred.

        Raises:
            psycopg.Error: The connection broke; the server rolls back then.
        """
        self.drop()
        if self._pg.transaction_status in _OPEN:
            self._send_all([_Query(_ROLLBACK, [])])

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open, and nothing waits for one."""
        return not self._deferred and self._pg.transaction_status == pq.TransactionStatus.IDLE

    def drop(self) -> None:
        """Drop what was deferred: its transaction is not going to be."""
        self._deferred.clear()

    def forget(self) -> None:
        """Take every statement for unprepared."""
        self._prepared.clear()

    def _take_deferred(self) -> list[_Query]:
        deferred, self._deferred = self._deferred, []
        return deferred

    def _exchange(self, queries: list[_Query]) -> list[pq.abc.PGresult]:
        """Send queries of a transaction, which begins with them if none is open."""
        begins = self._pg.transaction_status == pq.TransactionStatus.IDLE
        if begins:
            queries = [_Query(_BEGIN, []), *queries]
        try:
            return self._send_all(queries)
        except errors.InvalidSqlStatementName:  # somebody dropped what was prepared
            self.forget()
            if not begins:
                raise
        self.rollback()
        return self._send_all(queries)

    def _send_all(self, queries: list[_Query]) -> list[pq.abc.PGresult]:
        """Send queries in one go and return their results; raises the first one's error."""
        pg = self._pg
        preparing: dict[bytes, bytes] = {}
        try:
            pg.enter_pipeline_mode()
            news = [self._send(query.text, query.values, preparing) for query in queries]
            pg.pipeline_sync()
            self._flush()
            results = self._results(len(queries) + len(preparing))
            pg.exit_pipeline_mode()
        except BaseException as error:
            lost = pg.status != pq.ConnStatus.OK
            message = pg.get_error_message()
            self._raw.close()
            if lost and isinstance(error, Error):
                raise OperationalError(message or "the connection was lost") from error
            raise
        answers = []
        rest = iter(results)
        for query, new in zip(queries, news, strict=True):
            if new:
                _check(next(rest))
                self._prepared[query.text] = preparing[query.text]
            try:
                answers.append(_check(next(rest)))
            except errors.DivisionByZero:
                if query.otherwise is None:
                    raise
                raise query.otherwise from None
        return answers

    def _send(self, text: bytes, values: list[bytes | None], preparing: dict[bytes, bytes]) -> bool:
        """Send one query; return whether it is prepared with it, under its name in `preparing`."""
        name = self._prepared.get(text) or preparing.get(text)
        new = name is None
        if name is None:
            self._numbers += 1
            name = preparing[text] = b"agents_%d" % self._numbers
            self._pg.send_prepare(name, text)
        self._pg.send_query_prepared(name, values)
        return new

    def _flush(self) -> None:
        """Send what libpq holds, and take in what the server says meanwhile: both buffers end."""
        pg = self._pg
        while pg.flush():
            self._selector.modify(pg.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            try:
                ready = self._selector.select()
            finally:
                self._selector.modify(pg.socket, selectors.EVENT_READ)
            if any(events & selectors.EVENT_READ for _, events in ready):
                pg.consume_input()

    def _results(self, expected: int) -> list[pq.abc.PGresult]:
        """Return the results up to the end of the exchange."""
        pg, results = self._pg, list[pq.abc.PGresult]()
        between = False
        while True:
            while pg.is_busy():
                # Not PQgetResult's own wait, which no signal ends.
                self._selector.select()
                pg.consume_input()
            result = pg.get_result()
            if result is None:
                # Once between two queries, and for ever on a connection libpq has given up.
                if between or pg.status != pq.ConnStatus.OK:
                    raise OperationalError(pg.get_error_message() or "the connection was lost")
                between = True
                continue
            between = False
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                break
            results.append(result)
        if len(results) != expected:
            raise OperationalError("the server did not answer what it was asked")
        return results


# No file descriptor of its own, as the default one of Linux has; Windows has only the other.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
"""Spelled out: a database's default may be another. Not so READ WRITE: it may be frozen."""

_COMMIT, _ROLLBACK = b"COMMIT", b"ROLLBACK"

_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


def _check(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status in _GOOD:
        return result
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.get_error_message() or "the statement was not run"
    try:
        kind: Callable[..., Exception] = errors.lookup(state)
    except KeyError:
        kind = OperationalError
    raise kind(message)


def _encoded(parameters: Sequence[Any]) -> list[bytes | None]:
    return [None if value is None else _text(value) for value in parameters]


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        data = value.encode()
        if b"\0" in data:
            # libpq would cut it off there.
            raise errors.DataError("PostgreSQL text cannot hold NUL (0x00)")
        return data
    if type(value) is int:
        return b"%d" % value
    if isinstance(value, datetime):
        return value.isoformat().encode()
    raise errors.DataError(f"no text for a {type(value).__name__}")
