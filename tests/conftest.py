"""Isolation every test gets: its own tracking store, runtime store and keys."""

from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
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
    yield
    if "mlflow" in sys.modules:
        mlflow = sys.modules["mlflow"]
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
