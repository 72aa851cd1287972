"""The schema comes to the newest revision exactly once, whole, or not at all."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import inspect, text

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store, schema
from mlflow_agent_plugin.store.tables import REVISIONS, VERSION_TABLE, metadata

OPEN_AT_ONCE = """
import sys
from mlflow_agent_plugin.store import Store
import alembic.command  # so that all meet in the upgrade, not in an import
print("ready", flush=True)
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    print(store.dialect, flush=True)
"""


def test_the_tables_are_what_the_migrations_make(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(element, name, kind, reflected, compared):
        return kind != "table" or name != VERSION_TABLE

    with store.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": ours}
        )
        assert compare_metadata(context, metadata) == []


def test_the_code_knows_every_revision_in_order():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "mlflow_agent_plugin.store:migrations")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [REVISIONS[-1]]
    assert [r.revision for r in script.walk_revisions()][::-1] == list(REVISIONS)


def test_processes_that_open_a_fresh_store_at_once_all_succeed(store_uri, spawn):
    processes = [spawn(OPEN_AT_ONCE, store_uri) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert out.strip() in {"sqlite", "postgresql"}
    with Store.open(store_uri) as store, store.read() as connection:
        assert schema.current_revision(connection) == REVISIONS[-1]


def test_an_upgrade_that_fails_half_way_leaves_nothing_behind(store_uri, monkeypatch):
    real = schema.upgrade

    def fails_after_the_tables(connection, revision="head"):
        real(connection, revision)
        raise StoreError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "upgrade", fails_after_the_tables)
        with pytest.raises(StoreError, match="the power went"):
            Store.open(store_uri)
    with Store.open(store_uri) as store, store.read() as connection:
        assert schema.current_revision(connection) == REVISIONS[-1]


def test_a_store_of_a_newer_version_is_refused_and_left_alone(store_uri):
    with Store.open(store_uri) as store, store.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"9999.*install that version"):
        Store.open(store_uri)
    with pytest.raises(StoreError, match="9999"):
        Store.open(store_uri)


def test_mlflows_own_migration_table_beside_it_is_left_alone(tmp_path):
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as mlflow:
        mlflow.execute("CREATE TABLE alembic_version (version_num TEXT)")
        mlflow.execute("INSERT INTO alembic_version VALUES ('abc123')")
    with Store.open(f"sqlite:///{path}") as store, store.read() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        assert found == "abc123"
        tables = set(inspect(connection).get_table_names())
    assert set(metadata.tables) <= tables


def test_every_table_carries_the_prefix_that_keeps_it_apart_from_mlflows():
    assert all(name.startswith("agent_") for name in (*metadata.tables, VERSION_TABLE))


@pytest.mark.parametrize("table", ["agent_audit_events", "agent_audit_checkpoints"])
@pytest.mark.parametrize("change", ["UPDATE {} SET ts = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_database_itself_refuses_to_change_the_audit(store, table, change):
    if change.startswith("TRUNCATE") and store.dialect == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    columns = {
        "agent_audit_events": "writer, seq, ts, kind, body, prev_hash, hash",
        "agent_audit_checkpoints": "number, writer, seq, head_hash, ts, key_id, prev_hash, "
        "hash, signature",
    }[table]
    values = ", ".join(
        "1" if name.strip() in {"seq", "number"} else "'x'" for name in columns.split(",")
    )
    with store.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"))
    with pytest.raises(StoreError, match="append-only"), store.begin() as connection:
        connection.execute(text(change.format(table)))
    with store.read() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 1
