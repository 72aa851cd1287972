"""The store opens, commits or changes nothing, and says clearly what is wrong."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import ConfigError, StoreError
from mlflow_agent_plugin.store import Store, connections, engine
from mlflow_agent_plugin.store.tables import sessions

SECRET = "s3cret-Passw0rd"


def row(session_id, **changes):
    now = utc_now()
    return {
        "session_id": session_id, "tenant": "t", "user_name": "u", "verified": False, "agent": "a",
        "agent_digest": "d", "created_at": now, "last_at": now, "turns": 0, **changes,
    }  # fmt: skip


def add(store, session_id, **changes):
    with store.begin() as connection:
        connection.execute(insert(sessions), row(session_id, **changes))


def names(store):
    with store.read() as connection:
        return sorted(connection.scalars(select(sessions.c.session_id)))


@pytest.mark.parametrize("uri", ["", "agents.db", f"user:{SECRET}@host", "postgresql://h:port/x"])
def test_text_that_is_no_database_url_is_refused_without_being_repeated(uri):
    with pytest.raises(ConfigError, match="not a database URL") as caught:
        Store.open(uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("uri", ["mysql://u:p@h/db", "oracle://h", "duckdb:///x", "nope://"])
def test_a_database_the_store_cannot_live_in_is_refused_by_name(uri):
    with pytest.raises(ConfigError, match="cannot hold the runtime store"):
        Store.open(uri)


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://u:{SECRET}@127.0.0.1:1/db",
        f"postgres://u@127.0.0.1:1/db?password={SECRET}",
        f"postgresql+psycopg://u@127.0.0.1:1/db?sslpassword={SECRET}&password={SECRET}",
    ],
)
def test_an_unreachable_server_is_a_store_error_that_names_it_without_its_password(uri):
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/db") as caught:
        Store.open(uri)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_no_password_shows_in_a_stores_name(postgres_uri):
    with Store.open(postgres_uri) as store:
        password = postgres_uri.split(":")[2].split("@")[0]
        assert password not in repr(store)
        assert password not in store.uri
        assert password not in str(store.url)
        assert store.uri.startswith("postgresql://agents:***@127.0.0.1:")


def test_a_missing_folder_is_a_store_error_with_a_hint(tmp_path):
    with pytest.raises(StoreError, match="Check that the folder exists"):
        Store.open(f"sqlite:///{tmp_path}/no/such/folder/agents.db")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("content", [b"hello " * 1000, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_a_store_error_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "agents.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"agents\.db"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_a_read_only_database_can_be_read_and_a_write_is_a_store_error(tmp_path):
    path = tmp_path / "agents.db"
    with Store.open(f"sqlite:///{path}") as store:
        add(store, "s")
        with Store.open(f"sqlite:///file:{path}?mode=ro&uri=true") as read_only:
            assert names(read_only) == ["s"]
            with pytest.raises(StoreError, match=r"readonly.*Give the process write permission"):
                add(read_only, "t")


def test_a_read_only_database_without_tables_is_a_store_error(tmp_path):
    path = tmp_path / "agents.db"
    sqlite3.connect(path).execute("CREATE TABLE other (a)").connection.close()
    with pytest.raises(StoreError, match=r"readonly|read-only"):
        Store.open(f"sqlite:///file:{path}?mode=ro&uri=true")


def test_a_new_database_file_is_private(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        add(store, "s")
        for path in tmp_path.glob("agents.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_block_that_raises_changes_nothing(store):
    with pytest.raises(ZeroDivisionError), store.begin() as connection:
        connection.execute(insert(sessions), row("s"))
        _ = 1 / 0
    assert names(store) == []
    add(store, "t")
    assert names(store) == ["t"]


def test_a_row_the_database_refuses_is_a_store_error_and_changes_nothing(store):
    add(store, "s")
    with pytest.raises(StoreError), store.begin() as connection:
        connection.execute(insert(sessions), row("t"))
        connection.execute(insert(sessions), row("s"))
    assert names(store) == ["s"]


def test_a_nested_write_transaction_is_refused_at_once(store):
    with store.begin() as connection:
        assert store.is_writing
        with pytest.raises(RuntimeError, match="nested"), store.begin():
            pass
        with store.begin(connection) as same:
            assert same is connection
    assert not store.is_writing


def test_a_joined_transaction_is_committed_by_its_owner_only(store):
    with pytest.raises(ZeroDivisionError), store.begin() as outer:
        with store.begin(outer) as joined:
            joined.execute(insert(sessions), row("s"))
        _ = 1 / 0
    assert names(store) == []


def test_a_reader_sees_the_state_before_a_write_that_is_not_committed(store):
    add(store, "s")
    with store.begin() as connection:
        connection.execute(insert(sessions), row("t"))
        assert names(store) == ["s"]
    assert names(store) == ["s", "t"]


def test_a_read_transaction_sees_one_state_throughout(store):
    add(store, "s")
    count = text("SELECT count(*) FROM agent_sessions")
    with store.read() as connection:
        before = connection.scalar(count)
        writer = threading.Thread(target=add, args=(store, "t"))
        writer.start()
        writer.join()
        assert connection.scalar(count) == before == 1
    assert names(store) == ["s", "t"]


@pytest.mark.integration
def test_a_read_transaction_cannot_write_on_postgresql(postgres_uri):
    with (
        Store.open(postgres_uri) as store,
        pytest.raises(StoreError, match="read-only"),
        store.read() as connection,
    ):
        connection.execute(insert(sessions), row("s"))


def test_a_time_without_time_zone_is_refused(store):
    with pytest.raises(StoreError, match="time zone"):
        add(store, "s", created_at=datetime(2026, 1, 1))  # noqa: DTZ001
    assert names(store) == []


def test_times_come_back_as_they_went_in_with_their_time_zone(store):
    moment = utc_now()
    add(store, "s", created_at=moment)
    with store.read() as connection:
        found = connection.scalar(select(sessions.c.created_at))
    assert found == moment
    assert found.utcoffset().total_seconds() == 0


def test_threads_write_one_after_the_other(store):
    threads = [
        threading.Thread(target=lambda n=n: [add(store, f"{n}-{i}") for i in range(10)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(store)) == 80


def test_another_process_that_keeps_the_write_lock_is_a_store_error_in_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.2)
    path = tmp_path / "agents.db"
    with Store.open(f"sqlite:///{path}") as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process held the write lock"):
            add(store, "s")
        other.execute("ROLLBACK")
        other.close()
        add(store, "s")


def test_another_thread_that_keeps_the_write_lock_is_a_store_error_in_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.2)
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        caught = []

        def write():
            try:
                add(store, "s")
            except StoreError as error:
                caught.append(error)

        with store.begin():
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert "write lock" in str(caught[0])
        add(store, "s")


def test_commits_are_durable_on_sqlite(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store, store.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_few_commits_on_sqlite_wait_for_the_log_to_be_copied_into_the_database(tmp_path):
    from mlflow_agent_plugin.core.checkpoints import close_checkpointer, open_checkpointer

    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        with store.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar()
        saver = open_checkpointer(store)
        (savers,) = saver.conn.execute("PRAGMA wal_autocheckpoint").fetchone()
        close_checkpointer(saver)
    assert pages == savers == connections.WAL_PAGES


def test_an_in_memory_store_is_shared_by_threads_and_by_nobody_else():
    with Store.open("sqlite://") as one, Store.open("sqlite:///:memory:") as other:
        thread = threading.Thread(target=add, args=(one, "s"))
        thread.start()
        thread.join()
        assert names(one) == ["s"]
        assert names(other) == []


def test_a_closed_store_opens_again_by_itself(store):
    add(store, "s")
    store.close()
    assert names(store) == ["s"]


@pytest.mark.integration
def test_a_connection_the_server_dropped_while_idle_is_replaced(postgres_uri, monkeypatch):
    import psycopg

    monkeypatch.setattr(connections, "IDLE_CHECK_SECONDS", 0.0)
    with Store.open(postgres_uri) as store:
        add(store, "s")
        with psycopg.connect(postgres_uri, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert names(store) == ["s"]


@pytest.mark.integration
def test_a_connection_that_dies_in_a_transaction_is_a_store_error_and_the_next_one_works(
    postgres_uri,
):
    import psycopg

    with Store.open(postgres_uri) as store:
        with (
            pytest.raises(StoreError) as caught,
            store.begin() as connection,
            psycopg.connect(postgres_uri, autocommit=True) as admin,
        ):
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
            connection.execute(insert(sessions), row("s"))
        assert postgres_uri.split(":")[2].split("@")[0] not in str(caught.value)
        add(store, "t")
        assert names(store) == ["t"]


def in_child(action):
    """Run `action` in a forked child; return what it raised or printed, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = str(action())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_parent_and_forked_child_both_go_on_writing(store):
    add(store, "before")
    assert in_child(lambda: add(store, "child")) == "None"
    add(store, "after")
    assert names(store) == ["after", "before", "child"]


def test_a_fork_leaves_no_sqlite_connection_open_across_it(tmp_path):
    """SQLite loses its locks across a fork: the parent must hold no file when it happens."""
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        add(store, "s")

        def open_files():
            links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
            return [name for link in links if str(tmp_path) in (name := str(link.readlink()))]

        assert in_child(open_files) == "[]"


def test_a_child_forked_during_a_sqlite_transaction_refuses_to_use_the_store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        with store.begin() as connection:
            connection.execute(insert(sessions), row("s"))
            answer = in_child(lambda: add(store, "child"))
        assert answer.startswith("StoreError")
        assert "forked during a transaction" in answer
        assert names(store) == ["s"]


def test_opening_a_store_that_is_up_to_date_loads_no_alembic(tmp_path):
    uri = f"sqlite:///{tmp_path}/agents.db"
    Store.open(uri).close()
    script = (
        "import sys\n"
        "from mlflow_agent_plugin.store import Store\n"
        "Store.open(sys.argv[1]).close()\n"
        "assert 'alembic' not in sys.modules and 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, uri], check=True)
