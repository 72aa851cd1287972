"""A gated registry of the test's own."""

from __future__ import annotations

import pytest
from helpers.registry_world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Give a gated registry in MLflow's own sqlite database."""
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    return World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
