"""The command line in this process, and a small agent to use it on."""

from __future__ import annotations

import pytest
from helpers.command_line import SUITE, run, write_shelf


@pytest.fixture
def cli():
    """Give the function that runs the command line in this process."""
    return run


@pytest.fixture
def shelf(tmp_path):
    """Give the folder of a shelf agent."""
    return write_shelf(tmp_path / "agents" / "shelf")


@pytest.fixture
def gated(tmp_path, monkeypatch):
    """Point MLflow at a gated registry of the test's own."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")


@pytest.fixture
def suite(tmp_path):
    """Give a suite of two scenarios."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path
