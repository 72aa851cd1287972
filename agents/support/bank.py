"""The bank behind the support agent: SQLite, small, and strict about whose rows are whose.

Rules:
- Every read and write names a customer, and touches rows of that customer only. The customer is the
  actor of the conversation, never something the model wrote.
- A write happens in one transaction, completely or not at all, and at most once per idempotency
  key: the same key again returns the first result; the same key for something else is an error.
- A refusal is a `BankError` whose text a customer may read; nothing has changed then.
- One `Bank` may be used by many threads, and one file by many processes.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from bank_errors import BankError
from bank_schema import SCHEMA, TABLES
from bank_seed import seed_customers

SETTINGS = {"path", "seed", "today", "customers", "busy_timeout_seconds"}


class CustomerView:
    """One customer's view of the bank during one transaction.

    Attributes:
        db: Connection, inside a transaction.
        customer: Whose rows may be touched.
        today: The bank's current day.
    """

    def __init__(self, db: sqlite3.Connection, customer: str, today: date) -> None:
        self.db = db
        self.customer = customer
        self.today = today

    def rows(self, table: str, where: str = "", *values: Any) -> list[dict[str, Any]]:
        """Return the customer's rows of `table`, oldest first.

        Args:
            table: Name from `TABLES`.
            where: SQL written by this bundle's code, never by a user; values go through `values`.
            values: Values of the question marks in `where`.
        """
        if table not in TABLES:
            raise ValueError(f"no table {table!r}")
        condition = f" AND ({where})" if where else ""
        query = f"SELECT * FROM {table} WHERE customer_id = ?{condition} ORDER BY rowid"  # noqa: S608
        return [dict(row) for row in self.db.execute(query, (self.customer, *values))]

    def one(self, table: str, id_column: str, value: str, what: str) -> dict[str, Any]:
        """Return the customer's row with this id.

        Raises:
            BankError: There is none, or it is somebody else's: the text does not tell which.
        """
        found = self.rows(table, f"{id_column} = ?", value)
        if not found:
            raise BankError(f"There is no such {what} among yours.")
        return found[0]

    def open_account(self) -> dict[str, Any]:
        """Return the customer's open account.

        Raises:
            BankError: The account is closed.
        """
        accounts = self.rows("accounts", "status = 'open'")
        if not accounts:
            raise BankError("Your account is closed, so nothing can be changed on it.")
        return accounts[0]

    def insert(self, table: str, row: dict[str, Any]) -> None:
        """Insert one row of the customer."""
        if table not in TABLES or row["customer_id"] != self.customer:
            raise ValueError(f"cannot insert into {table!r} for this customer")
        marks = ", ".join("?" * len(row))
        self.db.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 - own names only
            tuple(row.values()),
        )

    def next_id(self, table: str, prefix: str) -> str:
        """Return a new id; rows are never deleted, so counting them is enough."""
        if table not in TABLES:
            raise ValueError(f"no table {table!r}")
        count = self.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
        return f"{prefix}_{count + 1:06d}"


P = ParamSpec("P")
Operation = Callable[Concatenate[CustomerView, P], dict[str, Any]]
"""A read or write: takes the customer's view and named arguments, returns a JSON object."""


class Bank:
    """An open bank.

    Args:
        path: SQLite file, or ``":memory:"``.
        today: Fixed current day (evaluation), or None for the real one.
        busy_timeout_seconds: How long to wait for another process that writes.
    """

    def __init__(
        self, path: str, *, today: date | None = None, busy_timeout_seconds: float = 10.0
    ) -> None:
        self._today = today
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=busy_timeout_seconds
        )
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA foreign_keys = ON")
        if path != ":memory:":
            self._db.execute("PRAGMA journal_mode = WAL")
        with self._transaction(write=True):
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)

    @property
    def today(self) -> date:
        """The bank's current day."""
        return self._today or datetime.now(timezone.utc).date()

    def seed(self, customers: list[str] | None = None) -> None:
        """Put the example customers into an empty bank; a bank that has been seeded stays as it is.

        Args:
            customers: More customer ids, each given the first example's situation.
        """
        with self._transaction(write=True):
            if self._db.execute("SELECT 1 FROM bank_facts WHERE name = 'seeded'").fetchone():
                return
            seed_customers(self._db, self.today, customers or [])
            self._db.execute("INSERT INTO bank_facts VALUES ('seeded', ?)", (str(self.today),))

    def read(
        self, operation: Operation[P], customer: str, *args: P.args, **kwargs: P.kwargs
    ) -> dict[str, Any]:
        """Run a read for `customer`.

        Raises:
            BankError: The bank does not know the customer, or refuses.
        """
        with self._transaction(write=False):
            return operation(self._view(customer), *args, **kwargs)

    def write(
        self,
        operation: Operation[P],
        customer: str,
        idempotency_key: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> dict[str, Any]:
        """Run a write for `customer`, once per key.

        Raises:
            BankError: The bank refuses, or the key was used for something else.
        """
        if not idempotency_key:
            raise BankError("A change needs an idempotency key.")
        arguments = json.dumps([args, kwargs], sort_keys=True)
        name = operation.__name__
        with self._transaction(write=True):
            view = self._view(customer)
            done = self._db.execute(
                "SELECT * FROM operations WHERE idempotency_key = ?", (idempotency_key,)
            ).fetchone()
            if done is not None:
                if (done["customer_id"], done["operation"], done["arguments"]) != (
                    customer,
                    name,
                    arguments,
                ):
                    raise BankError("This idempotency key was used for another change.")
                result: dict[str, Any] = json.loads(done["result"])
                return result
            result = operation(view, *args, **kwargs)
            self._db.execute(
                "INSERT INTO operations VALUES (?, ?, ?, ?, ?)",
                (idempotency_key, customer, name, arguments, json.dumps(result)),
            )
            return result

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """Return every customer row by table: what an evaluation compares."""
        with self._transaction(write=False):
            return {
                table: [
                    dict(row)
                    for row in self._db.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608
                ]
                for table in TABLES
            }

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _view(self, customer: str) -> CustomerView:
        known = self._db.execute(
            "SELECT 1 FROM customers WHERE customer_id = ?", (customer,)
        ).fetchone()
        if known is None:
            raise BankError(
                f"The bank has no customer {customer[:64]!r}; sign in as a customer of the bank."
            )
        return CustomerView(self._db, customer, self.today)

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def open_bank(settings: Mapping[str, Any]) -> Bank:
    """Open the bank (the bundle's ``tools.resources``).

    Args:
        settings: ``path`` (file or ":memory:", the default), ``seed`` (put example customers into
            an empty bank; default true), ``today`` (fixed day, YYYY-MM-DD), ``customers`` (further
            ids to seed), ``busy_timeout_seconds``.

    Raises:
        BankError: A setting is unknown or makes no sense.
    """
    unknown = sorted(set(settings) - SETTINGS)
    if unknown:
        raise BankError(
            f"unknown bank setting {', '.join(unknown)}; known: {', '.join(sorted(SETTINGS))}"
        )
    path = settings.get("path", ":memory:")
    seed = settings.get("seed", True)
    customers = settings.get("customers", [])
    timeout = settings.get("busy_timeout_seconds", 10.0)
    if not isinstance(path, str) or not path:
        raise BankError("bank setting path must be a file or ':memory:'")
    if not isinstance(seed, bool):
        raise BankError("bank setting seed must be true or false")
    if not isinstance(customers, list) or not all(isinstance(c, str) and c for c in customers):
        raise BankError("bank setting customers must be a list of customer ids")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
        raise BankError("bank setting busy_timeout_seconds must be a positive number")
    try:
        today = None if "today" not in settings else date.fromisoformat(str(settings["today"]))
    except ValueError as error:
        raise BankError("bank setting today must be a day, YYYY-MM-DD") from error
    if path != ":memory:" and not Path(path).expanduser().parent.is_dir():
        raise BankError(f"bank setting path: there is no folder {Path(path).parent}")
    if path != ":memory:":
        path = str(Path(path).expanduser())
    bank = Bank(path, today=today, busy_timeout_seconds=float(timeout))
    if seed:
        bank.seed(customers)
    return bank
