"""Isolation every test gets: its own tracking store, runtime store and keys."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch, request):
    """Point every default at the test's own folder, and undo what a test set in MLflow's globals."""
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        if name != "MLFLOW_AGENTS_DATA_DIR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_URI", f"sqlite:///{tmp_path}/agents.db")
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "keys"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    if WITH_MLFLOW & set(request.path.parts):
        shutil.copy(request.getfixturevalue("empty_mlflow_database"), tmp_path / "mlflow.db")
    yield
    if "mlflow" in sys.modules:
        mlflow = sys.modules["mlflow"]
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.tracing.reset()
        mlflow.tracking.fluent._active_experiment_id = None
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture(scope="session")
def postgres_server():
    """Start a PostgreSQL server of the tests' own, with a password; gives its URL without database.

    Skips where no server binaries are installed. PostgreSQL refuses to run as root: then the
    ``postgres`` user of the package runs it.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is None:
        pytest.skip("no PostgreSQL server binaries (initdb) on this machine")
    binaries = Path(found).parent
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="agents-pg-"))
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")

    def run(*command):
        subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            check=True, user=user, cwd=folder, timeout=120,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip

    try:
        run("initdb", "-D", data, "-U", "agents", "-A", "scram-sha-256",
            f"--pwfile={folder / 'password'}", "--no-sync")  # fmt: skip
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://agents:{password}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_uri(postgres_server):
    """Give the URL of a fresh PostgreSQL database."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    yield f"{postgres_server}/{name}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def store_uri(request, tmp_path):
    """Give the URL of a fresh runtime store: once on sqlite, once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return request.getfixturevalue("postgres_uri")
