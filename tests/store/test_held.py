"""Writers keep connections to PostgreSQL between transactions, and nobody else goes without."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import event, insert, select, text

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store, held
from mlflow_agent_plugin.store.driver import DriverStatement
from mlflow_agent_plugin.store.tables import leases, sessions

pytestmark = pytest.mark.integration

_ADD = DriverStatement(f"INSERT INTO {leases.name} (name, holder, until) VALUES (?, ?, ?)")


@pytest.fixture
def small(postgres_uri, monkeypatch):
    """Give a store of one connection, and one more when there is need."""
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_POOL", "1")
    with Store.open(postgres_uri) as store:
        store.close()  # what opening it left
        yield store


@pytest.fixture
def store(postgres_uri):
    with Store.open(postgres_uri) as store:
        store.close()
        yield store


def add(store, session_id):
    now = utc_now()
    with store.begin() as connection:
        connection.execute(
            insert(sessions),
            {
                "session_id": session_id, "tenant": "t", "user_name": "u", "verified": False,
                "agent": "a", "agent_digest": "d", "created_at": now, "last_at": now, "turns": 0,
            },
        )  # fmt: skip
        return backend(connection)


def backend(connection):
    return connection.scalar(text("SELECT pg_backend_pid()"))


def names(store):
    with store.read() as connection:
        return sorted(connection.scalars(select(sessions.c.session_id)))


def locks(store):
    """Count the rows `_ADD` made."""
    with store.read() as connection:
        return connection.scalar(text(f"SELECT count(*) FROM {leases.name}"))


def taken_out(store):
    """Count how often the pool lends a connection from here on."""
    lent = []
    event.listen(store.engine, "checkout", lambda *_: lent.append(1))
    return lent


def test_transactions_in_a_row_take_one_connection_out_of_the_pool_once(store):
    lent = taken_out(store)
    assert len({add(store, f"s{n}") for n in range(5)}) == 1
    assert len(lent) == 1
    assert names(store) == ["s0", "s1", "s2", "s3", "s4"]


def test_statements_handed_to_the_driver_use_the_kept_connection_too(store):
    lent = taken_out(store)
    for n in range(3):
        with store.begin() as connection:
            _ADD.defer(connection, (f"l{n}", "me", utc_now()))
    assert locks(store) == 3
    assert len(lent) == 2  # the writer's, and the reader's


def test_a_connection_whose_transaction_failed_goes_back_to_the_pool(store):
    lent = taken_out(store)
    add(store, "s")
    with pytest.raises(StoreError):
        add(store, "s")
    assert store.engine.pool.checkedout() == 0
    add(store, "t")
    assert len(lent) == 2
    assert names(store) == ["s", "t"]


def test_nothing_of_a_failed_transaction_is_in_the_next_one(store):
    add(store, "s")
    with pytest.raises(ZeroDivisionError), store.begin() as connection:
        _ADD.defer(connection, ("lost", "me", utc_now()))
        _ = 1 / 0
    add(store, "t")
    assert locks(store) == 0


def test_readers_get_the_connections_writers_merely_keep(small):
    add(small, "s")
    assert small.engine.pool.checkedout() == 1
    with ExitStack() as readers:
        for _ in range(2):
            connection = readers.enter_context(small.read())
            assert connection.scalar(text("SELECT 1")) == 1
        assert small.engine.pool.checkedout() == 2


def test_a_waiting_reader_gets_what_a_writer_gives_back(small):
    """Two connections at most: a writer who kept its own would let the reader wait for ever."""
    waits, done = threading.Event(), threading.Event()

    def read():
        waits.set()
        names(small)
        done.set()

    with small.read() as other:
        other.scalar(text("SELECT 1"))
        with small.begin() as connection:
            connection.execute(text("SELECT 1"))
            reader = threading.Thread(target=read)
            reader.start()
            waits.wait()
            assert not done.wait(0.2)
        assert done.wait(5)
        reader.join()


def test_what_was_opened_beyond_the_usual_number_is_not_kept(small):
    with small.begin() as first:
        first.execute(text("SELECT 1"))
        other = threading.Thread(target=add, args=(small, "t"))
        other.start()
        other.join()
        assert small.engine.pool.checkedout() == 1
    assert small.engine.pool.checkedout() == 1


def test_many_writers_at_once_write_everything_and_keep_no_more_than_the_pool(store):
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda n: add(store, f"s{n:02}"), range(64)))
    assert names(store) == [f"s{n:02}" for n in range(64)]
    assert store.engine.pool.checkedout() <= store.engine.pool.size()


def test_a_kept_connection_that_was_idle_for_long_is_tried_before_it_is_used(store, monkeypatch):
    pid = add(store, "s")
    now = time.monotonic()
    with store.read() as connection:  # another session of the database
        connection.scalar(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert add(store, "t") != pid
    assert names(store) == ["s", "t"]


def test_a_connection_goes_back_to_the_pool_after_a_while_however_busy_it_is(store, monkeypatch):
    lent = taken_out(store)
    add(store, "s")
    monkeypatch.setattr(held, "KEPT_SECONDS", 0.0)
    add(store, "t")
    assert len(lent) == 2


def test_closing_the_store_gives_everything_back(store):
    add(store, "s")
    store.close()
    assert store.engine.pool.checkedout() == 0
    add(store, "t")
    assert names(store) == ["s", "t"]


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.rollback(),
        lambda connection: connection.commit(),
        lambda connection: connection.get_transaction().close(),
        lambda connection: connection.invalidate(),
        lambda connection: connection.close(),
    ],
)
def test_a_block_that_ended_the_transaction_itself_is_not_acknowledged(store, end):
    """MLflow's stores roll a session back when a row exists, and go on: half would be lost."""
    with pytest.raises(StoreError), store.begin() as connection:
        _ADD.defer(connection, ("lost", "me", utc_now()))
        connection.execute(text("SELECT 1"))
        end(connection)
    assert store.engine.pool.checkedout() == 0
    add(store, "t")
    assert names(store) == ["t"]
    assert locks(store) == 0


def test_a_rollback_in_the_middle_of_a_block_loses_all_of_it(store):
    with pytest.raises(StoreError), store.begin() as connection:
        connection.rollback()
        _ADD.defer(connection, ("half", "me", utc_now()))
    assert locks(store) == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: _ADD.run(connection, ("stray", "me", utc_now())),
        lambda connection: _ADD.defer(connection, ("stray", "me", utc_now())),
        lambda connection: connection.execute(text("SELECT 1")),
        lambda connection: connection.begin_nested(),
        lambda connection: connection.execution_options(stream_results=True),
    ],
)
def test_what_somebody_does_with_a_connection_after_its_block_is_in_no_other(store, use):
    with store.begin() as connection:
        connection.execute(text("SELECT 1"))
    use(connection)
    with store.begin() as other:
        assert other is not connection
        _ADD.defer(other, ("mine", "me", utc_now()))
    assert locks(store) == 1


def test_a_savepoint_or_options_of_one_block_are_not_there_in_the_next(store):
    for change in (
        lambda connection: connection.begin_nested(),
        lambda connection: connection.execution_options(stream_results=True),
    ):
        with store.begin() as connection:
            connection.execute(text("SELECT 1"))
            change(connection)
        with store.begin() as other:
            assert not other.in_nested_transaction()
            assert not other.get_execution_options().get("stream_results")


def test_whoever_borrows_from_the_pool_gets_what_is_merely_kept(small):
    """LangGraph's checkpoints do."""
    add(small, "s")
    borrowed = [small.lend(small.engine.raw_connection) for _ in range(2)]
    for connection in borrowed:
        connection.close()


def test_nothing_is_kept_while_somebody_wants_a_connection(store):
    connections = held.HeldConnections(store.engine)
    one = connections.take()
    with connections.wanted():
        connections.keep(one)
        assert store.engine.pool.checkedout() == 0


def test_whoever_wants_one_beside_others_gets_what_is_kept_whatever_the_pool_counts(store):
    """What another one is about to take counts as idle."""
    connections = held.HeldConnections(store.engine)
    connections.keep(connections.take())
    with connections.wanted():
        assert store.engine.pool.checkedout() == 1
        with connections.wanted():
            assert store.engine.pool.checkedout() == 0


def test_a_store_nobody_closed_gives_its_connections_back_when_it_is_gone(store, postgres_uri):
    for number in range(2):
        other = Store.open(postgres_uri)
        add(other, f"s{number}")
        pool = other.engine.pool
        del other
        gc.collect()
        assert pool.checkedout() == 0


def test_a_store_closed_while_it_writes_leaves_no_connection_of_then_open(store, postgres_uri):
    with store.begin() as connection:
        connection.execute(text("SELECT 1"))
        store.close()
    with psycopg.connect(postgres_uri.replace("+psycopg", ""), autocommit=True) as admin:
        rest = admin.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert rest == (0,)
    add(store, "s")
    assert names(store) == ["s"]


def test_an_interrupt_in_the_rollback_leaves_no_connection_out(store, monkeypatch):
    def interrupt(connection, *, failed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.begin() as connection:
        connection.execute(text("SELECT 1"))
        monkeypatch.setattr(held, "end_pipeline", interrupt)
    assert store.engine.pool.checkedout() == 0


def test_a_forked_child_writes_on_a_connection_of_its_own(store):
    pid = add(store, "before")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(add(store, "child") != pid)
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "True"
    os.waitpid(child, 0)
    assert add(store, "after") == pid
    assert names(store) == ["after", "before", "child"]


def test_what_was_kept_is_lost_with_any_other_connection_of_the_pool(store, postgres_uri):
    """A restart ends them all: one refused request tells of it, not one for each of them."""
    with store.read() as reader, store.begin() as writer:
        pids = backend(reader), backend(writer)
    with psycopg.connect(postgres_uri.replace("+psycopg", ""), autocommit=True) as admin:
        for pid in pids:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(StoreError):
        names(store)
    add(store, "s")
    assert names(store) == ["s"]
