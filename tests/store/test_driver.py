"""Statements that skip SQLAlchemy do what they would do with it."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import select

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.driver import DriverStatement, bind_time
from mlflow_agent_plugin.store.tables import effects

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
INSERT = DriverStatement(
    f"INSERT INTO {effects.name}"  # noqa: S608 - constants
    " (effect_key, tool, arguments_digest, owner, state, attempts, started_at)"
    " VALUES (?, ?, ?, ?, 'started', ?, ?) ON CONFLICT DO NOTHING"
)
END = DriverStatement(
    f"UPDATE {effects.name} SET state = ?, result = ? WHERE attempts >= ?"  # noqa: S608 - constants
)


def put(store, key, tool="t", attempts=1):
    with store.begin() as connection:
        values = (key, tool, "d", "o", attempts, bind_time(WHEN, connection))
        return INSERT.run(connection, values)


def rows(store):
    with store.read() as connection:
        return connection.execute(select(effects).order_by(effects.c.effect_key)).all()


@pytest.mark.parametrize(
    "text",
    ["", "'\"\\x", "%s $1 ?", "\u00e9\u4e2d\U0001f600", "a\nb\t\x01\x7f", " NULL ", "x" * 70_000],
)
def test_values_come_back_as_they_went_in(store, text):
    assert put(store, "k", text, 2**31 - 1) == 1
    (found,) = rows(store)
    assert (found.tool, found.attempts, found.started_at, found.result) == (
        text,
        2**31 - 1,
        WHEN,
        None,
    )


def test_it_says_how_many_rows_it_changed(store):
    assert [put(store, "a", attempts=1), put(store, "b", attempts=2), put(store, "b")] == [1, 1, 0]
    with store.begin() as connection:
        assert END.run(connection, ("done", None, 1)) == 2
        assert END.run(connection, ("done", "{}", 2)) == 1
        assert END.run(connection, ("done", "{}", 3)) == 0
    assert [row.result for row in rows(store)] == [None, "{}"]


def test_a_statement_that_has_to_change_a_row_says_nothing_if_it_does(store):
    with store.begin() as connection:
        values = ("a", "t", "d", "o", 1, bind_time(WHEN, connection))
        INSERT.expect(connection, values, LookupError("a"))
        END.expect(connection, ("done", "{}", 1), LookupError("b"))
    assert [(row.effect_key, row.state) for row in rows(store)] == [("a", "done")]


@pytest.mark.parametrize("last", [True, False])
def test_one_that_changes_none_ends_the_block_with_the_error_given_and_nothing_is_written(
    store, last
):
    put(store, "taken")
    for _ in range(3):
        with pytest.raises(LookupError, match="mine"), store.begin() as connection:
            INSERT.run(connection, ("new", "t", "d", "o", 1, bind_time(WHEN, connection)))
            values = ("taken", "t", "d", "o", 1, bind_time(WHEN, connection))
            INSERT.expect(connection, values, LookupError("mine"))
            if not last:
                END.expect(connection, ("done", None, 1), LookupError("another"))
                INSERT.defer(connection, ("newer", "t", "d", "o", 1, bind_time(WHEN, connection)))
        assert [row.effect_key for row in rows(store)] == ["taken"]
    assert put(store, "next") == 1


def test_a_block_that_raises_takes_it_back(store):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), store.begin() as connection:
            INSERT.run(connection, ("k", "t", "d", "o", 1, bind_time(WHEN, connection)))
            raise ZeroDivisionError
    assert rows(store) == []


def test_what_the_database_refuses_is_a_store_error_and_the_next_one_works(store):
    for _ in range(2):
        with pytest.raises(StoreError), store.begin() as connection:
            INSERT.run(connection, ("bad", None, "d", "o", 1, bind_time(WHEN, connection)))
        assert put(store, "good") in (0, 1)
    assert [row.effect_key for row in rows(store)] == ["good"]


def test_a_block_that_goes_on_after_a_refused_statement_writes_nothing(store):
    on_postgresql = store.dialect == "postgresql"
    told = pytest.raises(StoreError, match="nothing of it") if on_postgresql else nullcontext()
    with told, store.begin() as connection, pytest.raises(Exception, match=r"(?i)null"):
        INSERT.run(connection, ("bad", None, "d", "o", 1, bind_time(WHEN, connection)))
    assert rows(store) == []


@pytest.mark.parametrize("bad", ["a\x00b", "\x00", "\ud800"])
def test_a_text_postgresql_cannot_hold_is_refused_and_not_cut_off(postgres_uri, bad):
    with Store.open(postgres_uri) as store:
        with pytest.raises((StoreError, UnicodeEncodeError)), store.begin() as connection:
            INSERT.run(connection, (bad, "t", "d", "o", 1, bind_time(WHEN, connection)))
        assert put(store, "a") == 1
        assert [row.effect_key for row in rows(store)] == ["a"]


def test_a_connection_a_reader_had_writes_again_on_postgresql(postgres_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_POOL", "1")
    with Store.open(postgres_uri) as store:
        for number in range(4):
            assert put(store, f"k{number}") == 1
            assert len(rows(store)) == number + 1
            with store.begin() as connection:
                INSERT.run(connection, (f"k{number}", "t", "d", "o", 1, WHEN))
                shown = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
                assert shown == "read committed"


def test_it_runs_on_after_many_rollbacks_on_postgresql(postgres_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_POOL", "1")
    with Store.open(postgres_uri) as store:
        for number in range(12):
            with pytest.raises(ZeroDivisionError), store.begin() as connection:
                INSERT.run(connection, ("k", "t", "d", "o", 1, WHEN))
                connection.execute(select(effects)).all()
                raise ZeroDivisionError
            assert put(store, f"k{number}") == 1
        assert len(rows(store)) == 12
