"""A write transaction's statements go to PostgreSQL together, and none is taken for what it is not."""

from __future__ import annotations

import gc
import signal
import threading
from types import SimpleNamespace

import pytest
from psycopg import OperationalError, pq
from sqlalchemy import select, text

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store, connections
from mlflow_agent_plugin.store.driver import DriverStatement, pipeline_of
from mlflow_agent_plugin.store.pipeline import Pipeline
from mlflow_agent_plugin.store.tables import effects

# ruff: noqa: PT012 - what raises is a whole transaction

INSERT = DriverStatement(
    f"INSERT INTO {effects.name}"  # noqa: S608 - constants
    " (effect_key, tool, arguments_digest, owner, state, attempts, started_at)"
    " VALUES (?, 'tool', 'digest', 'owner', 'started', ?, '2026-01-02T03:04:05Z')"
)
NOTE = DriverStatement(f"UPDATE {effects.name} SET result = ?")  # noqa: S608 - constants


@pytest.fixture
def store(postgres_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_POOL", "1")
    with Store.open(postgres_uri) as opened:
        yield opened


def keys(store):
    with store.read() as connection:
        query = select(effects.c.effect_key).order_by(effects.c.effect_key)
        return list(connection.execute(query).scalars())


def test_what_was_deferred_is_written_with_the_commit(store):
    with store.begin() as connection:
        INSERT.defer(connection, ("a", 1))
        INSERT.defer(connection, ("b", 1))
        assert connection.connection.driver_connection.info.transaction_status.name == "IDLE"
    assert keys(store) == ["a", "b"]


def test_what_was_deferred_is_run_before_the_next_statement(store):
    with store.begin() as connection:
        INSERT.defer(connection, ("a", 1))
        assert NOTE.run(connection, ("seen",)) == 1


def test_a_deferred_statement_that_fails_fails_the_commit_and_all_of_it(store):
    with pytest.raises(StoreError, match="null value"), store.begin() as connection:
        INSERT.run(connection, ("a", 1))
        INSERT.defer(connection, ("b", None))
        INSERT.defer(connection, ("c", 1))
    assert keys(store) == []
    with store.begin() as connection:
        INSERT.defer(connection, ("d", 1))
    assert keys(store) == ["d"]


def test_a_block_that_raises_drops_what_it_deferred(store):
    with pytest.raises(ZeroDivisionError), store.begin() as connection:
        INSERT.defer(connection, ("a", 1))
        raise ZeroDivisionError
    with store.begin() as connection:
        INSERT.run(connection, ("b", 1))
    assert keys(store) == ["b"]


@pytest.mark.parametrize("through_the_pipeline", [True, False])
def test_a_commit_that_ended_as_a_rollback_is_an_error(store, through_the_pipeline):
    with pytest.raises(StoreError, match="nothing of it was written"), store.begin() as connection:
        INSERT.run(connection, ("a", 1))
        with pytest.raises(Exception, match=r"null value|division by zero"):
            if through_the_pipeline:
                INSERT.run(connection, ("b", None))
            else:
                connection.execute(text("SELECT 1/0"))
    assert keys(store) == []


def test_a_value_that_cannot_be_sent_leaves_the_transaction_as_it_was(store):
    with store.begin() as connection:
        INSERT.run(connection, ("a", 1))
        for bad in ("nul\0", "\ud800", 1.5, True, [1]):
            with pytest.raises(Exception, match=r"NUL|surrogates|no text for"):
                INSERT.run(connection, (bad, 1))
        INSERT.run(connection, ("b", 1))
    assert keys(store) == ["a", "b"]


def test_statements_larger_than_any_buffer_go_both_ways(store):
    large = "x" * 20_000_000
    with store.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION pg_temp.shout() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN FOR i IN 1..300 LOOP RAISE NOTICE '%', repeat('y', 10000); END LOOP;"
                " RETURN NEW; END $$"
            )
        )
        connection.execute(
            text(
                f"CREATE TRIGGER shout BEFORE UPDATE ON {effects.name}"
                " FOR EACH ROW EXECUTE FUNCTION pg_temp.shout()"
            )
        )
        INSERT.defer(connection, ("a", 1))
        for _ in range(2):
            NOTE.defer(connection, (large,))
        assert NOTE.run(connection, (large,)) == 1
        connection.execute(text(f"DROP TRIGGER shout ON {effects.name}"))
    with store.read() as connection:
        assert connection.execute(select(effects.c.result)).scalar_one() == large


def test_a_signal_ends_the_wait_and_the_connection_is_not_used_again(store):
    def stop(*_):
        raise KeyboardInterrupt

    wait = DriverStatement(f"UPDATE {effects.name} SET attempts = 1 FROM pg_sleep(?::int)")  # noqa: S608 - constants
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt), store.begin() as connection:
            INSERT.run(connection, ("a", 1))
            pipeline = pipeline_of(connection)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            wait.run(connection, (300,))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with store.begin() as connection:
        assert pipeline_of(connection) is not pipeline
        INSERT.run(connection, ("b", 1))
    assert keys(store) == ["b"]


def test_a_connection_the_server_closed_fails_clearly_and_the_next_transaction_runs(store):
    with pytest.raises(StoreError) as told, store.begin() as connection:
        INSERT.run(connection, ("a", 1))
        own = connection.connection.driver_connection.info.backend_pid
        url = store.url.render_as_string(hide_password=False)
        with Store.open(url) as other, other.read() as admin:
            admin.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": own})
        INSERT.run(connection, ("b", 1))
    assert "***" in str(told.value)
    with store.begin() as connection:
        INSERT.run(connection, ("c", 1))
    assert keys(store) == ["c"]


def test_statements_are_prepared_once_and_again_after_a_rollback(store):
    def prepared(connection):
        query = text("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'agents%'")
        return connection.execute(query).scalar_one()

    def write(key):
        with store.begin() as connection:
            INSERT.run(connection, (key, 1))
            return prepared(connection)

    first = write("a")
    assert [write(key) for key in "bcd"] == [first + 1] * 3  # and COMMIT
    for number in range(40):  # psycopg prepares what runs often
        with pytest.raises(ZeroDivisionError), store.begin() as connection:
            INSERT.run(connection, (f"no-{number}", 1))
            prepared(connection)
            raise ZeroDivisionError
    assert write("e") == first + 2  # and ROLLBACK
    for _ in range(8):  # a reader's rollback is psycopg's: it drops them all
        with pytest.raises(ZeroDivisionError), store.read() as connection:
            prepared(connection)
            raise ZeroDivisionError
    assert write("f") <= first + 2
    assert keys(store) == list("abcdef")


def test_what_an_abandoned_block_deferred_is_in_no_other_transaction(store):
    def abandon():
        block = store.begin()
        INSERT.defer(block.__enter__(), ("a", 1))

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    gc.collect()
    with store.begin() as connection:
        INSERT.run(connection, ("b", 1))
    assert keys(store) == ["b"]


def test_a_database_an_operator_froze_is_not_written(store):
    with store.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    store.close()
    with pytest.raises(StoreError, match="read-only"), store.begin() as connection:
        INSERT.run(connection, ("a", 1))


def test_a_text_is_the_same_whatever_encoding_the_client_is_set_to(postgres_uri, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with Store.open(postgres_uri) as store:
        with store.begin() as connection:
            INSERT.run(connection, ("\u00e9\u4e2d", 1))
        assert keys(store) == ["\u00e9\u4e2d"]


@pytest.mark.parametrize("status", [pq.ConnStatus.BAD, pq.ConnStatus.OK])
def test_an_answer_that_never_comes_ends_the_exchange(store, status):
    class Silent:
        transaction_status = pq.TransactionStatus.IDLE

        def __init__(self):
            self.status = status

        def __getattr__(self, name):
            return lambda *_: b"" if name == "get_error_message" else None

    with store.begin() as connection:
        pipeline = Pipeline(connection.connection.driver_connection)
        pipeline._raw, pipeline._pg = SimpleNamespace(close=lambda: None), Silent()
        with pytest.raises(OperationalError, match="lost"):
            pipeline.run(b"SELECT 1", ())


def test_a_transaction_survives_that_somebody_dropped_what_was_prepared(store):
    def drop(connection):
        connection.connection.driver_connection.execute("DEALLOCATE ALL")

    with store.begin() as connection:
        INSERT.run(connection, ("a", 1))
    with store.read() as connection:
        drop(connection)
    with store.begin() as connection:  # begins, and is sent again
        INSERT.run(connection, ("b", 1))
    with pytest.raises(StoreError, match="does not exist"), store.begin() as connection:
        drop(connection)
        INSERT.run(connection, ("c", 1))
    with store.begin() as connection:
        INSERT.defer(connection, ("d", 1))
    assert keys(store) == ["a", "b", "d"]


def test_an_idle_connection_is_tried_and_keeps_what_is_prepared(store, monkeypatch):
    query = text("SELECT name FROM pg_prepared_statements WHERE name LIKE 'agents%' ORDER BY name")
    with store.begin() as connection:
        INSERT.run(connection, ("a", 1))
    with store.read() as connection:
        before = connection.execute(query).scalars().all()
        for _ in range(6):  # psycopg prepares what runs often
            connection.execute(query)
    monkeypatch.setattr(connections, "IDLE_CHECK_SECONDS", 0.0)
    with store.begin() as connection:
        INSERT.run(connection, ("b", 1))
        assert connection.execute(query).scalars().all() == before
    assert keys(store) == ["a", "b"]
