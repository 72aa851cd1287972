"""Isolation every test gets: its own tracking store, runtime store and keys."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

CANARY = "canary-7d1f0c55b2e94a6f"
"""A secret every test has in its environment, as the credential of the scope ``canary``.

The shelf agent's `look` borrows it at every call, and says it when it fails. In the end of the run
it must stand in no file a test left, no table of PostgreSQL and nothing a test printed or logged.
"""

_LEAKS: list[str] = []
LEAKED = 7
"""Exit code of a run in which the planted secret got out: no second try makes that right."""

LONGEST = (
    "interaction/test_demo.py", "browser/test_console.py", "pipelines/test_retrain.py",
    "notebooks/", "security/test_side_doors_by_role.py", "interaction/web/test_console.py",
    "core/test_exactly_once.py", "development/test_spark.py", "registry/test_large_bundle.py", "benchmarks/", "docs/",
)  # fmt: skip
"""Files that take long begin first, so that at the end no worker waits for the other's last."""

WITH_MLFLOW = {
    "agents", "core", "development", "interaction", "lifecycle", "observability", "pipelines",
    "registry", "security",
}  # fmt: skip


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory):
    """Make MLflow's tables once: its migrations take seconds, a copy of the file none."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    engine = create_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


def mlflow_variables():
    """Return the names of the environment's variables that are MLflow's or ours."""
    return {name for name in os.environ if name.startswith("MLFLOW_")}


def hear_our_loggers():
    """Undo what a library or an earlier test did to logging: what we log can be asserted."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("mlflow_agent_plugin") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch, request):
    """Point every default at the test's own folder, and undo what a test set in MLflow's globals."""
    before = mlflow_variables()
    for name in before - {"MLFLOW_AGENTS_DATA_DIR"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_CANARY", CANARY)
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_URI", f"sqlite:///{tmp_path}/agents.db")
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "keys"))
    monkeypatch.setenv("MLFLOW_AGENTS_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    if WITH_MLFLOW & set(request.path.parts):
        shutil.copy(request.getfixturevalue("empty_mlflow_database"), tmp_path / "mlflow.db")
    hear_our_loggers()
    yield
    if "mlflow" in sys.modules:
        mlflow = sys.modules["mlflow"]
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.tracing.reset()
        mlflow.tracking.fluent._active_experiment_id = None
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    if "boto3" in sys.modules:  # its default session keeps the credentials of another test
        sys.modules["boto3"].DEFAULT_SESSION = None
    # MLflow tells child processes by variables where it points and which experiment is active. What
    # is left of them would reach the next fixture that outlives a test.
    for name in mlflow_variables() - before:
        del os.environ[name]


@pytest.fixture(scope="session")
def postgres_server():
    """Start a PostgreSQL server of the tests' own, with a password; gives its URL without database.

    Skips where no server binaries are installed.
    """
    from helpers.postgres_server import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        yield server.uri
    finally:
        server.close()


@pytest.fixture
def postgres_uri(postgres_server):
    """Give the URL of a fresh PostgreSQL database."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    yield f"{postgres_server}/{name}"
    try:
        _look_for_canary_in_tables(f"{postgres_server}/{name}")
    finally:
        with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _look_for_canary_in_tables(uri):
    import psycopg

    with psycopg.connect(uri, autocommit=True, options="-c lock_timeout=10s") as reader:
        tables = reader.execute(
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
            " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            # The text of a whole row; bytes (checkpoints) stand in it as hexadecimal.
            query = f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s OR t::text LIKE %s"  # noqa: S608
            wanted = (f"%{CANARY}%", f"%{CANARY.encode().hex()}%")
            assert reader.execute(query, wanted).fetchone() == (0,), f"the secret is in {table}"


def pytest_collection_modifyitems(items):
    """Bring the files that take long to the front."""
    root = Path(__file__).parent

    def place(item):
        name = item.path.relative_to(root).as_posix()
        return next((n for n, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=place)


def pytest_runtest_logreport(report):
    """Note a test that printed, logged or showed the planted secret."""
    texts = [text for _, text in report.sections]
    if report.failed:
        texts.append(report.longreprtext)
    if any(CANARY in text for text in texts):
        _LEAKS.append(f"what {report.nodeid} printed")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def store_uri(request, tmp_path):
    """Give the URL of a fresh runtime store: once on sqlite, once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return request.getfixturevalue("postgres_uri")


@pytest.fixture(scope="session")
def s3_server():
    """Start a real S3 server (it checks signatures) for all tests that need one."""
    from helpers.s3_server import S3Server

    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """Give the name of a fresh bucket, the environment set so that boto3 and MLflow reach it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{secrets.token_hex(6)}"
    s3_server.client().create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(scope="session")
def team(tmp_path_factory):
    """Give a running server with login and people, for all tests that look at console and API."""
    from helpers.team import Team

    with Team(tmp_path_factory.mktemp("team")) as running:
        yield running


@pytest.fixture(scope="session")
def desk(team):
    """Register the agent `desk`, evaluated; return its name."""
    suite = team.register("desk")
    team.evaluate("desk", 1, suite)
    return "desk"


def pytest_sessionfinish(session):
    """Fail the run if the planted secret got anywhere."""
    if _LEAKS:
        print(f"\nthe planted secret is in {_LEAKS[:10]}")
        session.exitstatus = LEAKED
    base = session.config._tmp_path_factory._basetemp
    if hasattr(session.config, "workerinput") or base is None or not base.is_dir():
        return  # the controller looks at the folders of all workers
    found = subprocess.run(
        ["grep", "-rlF", "--devices=skip", CANARY, str(base)],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    if found:
        print(f"\nthe planted secret was written to {found[:10]}")
        session.exitstatus = LEAKED
