"""Where a reader of the documentation sits: an empty folder with a few agents, and a gated registry."""

from __future__ import annotations

import os
import shutil

import pytest
from helpers.pages import ROOT, QuickReader

from mlflow_agent_plugin.interaction.templates import write_agent


@pytest.fixture
def desk(tmp_path, monkeypatch, empty_mlflow_database):
    """Give a reader in a folder of his own, with an empty gated registry."""
    shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "ann")
    monkeypatch.syspath_prepend(str(ROOT))
    # MLflow keeps stores by their URI: in one process a relative one would mean the first test's.
    absolute = {"sqlite:///mlflow.db": f"sqlite:///{tmp_path}/mlflow.db"}
    return QuickReader(dict(os.environ), replace=absolute)


@pytest.fixture
def repository(tmp_path):
    """Put the repository's own agents into the folder."""
    shutil.copytree(
        ROOT / "agents",
        tmp_path / "agents",
        ignore=shutil.ignore_patterns("__pycache__", "planner"),
    )


@pytest.fixture
def stand_ins(tmp_path):
    """Put small agents in place of those a page speaks of: they need no training."""
    (tmp_path / "agents").mkdir()
    for name in ("support", "mine"):
        _, suite = write_agent(name, tmp_path / "agents")
        if name == "support":
            suite.rename(tmp_path / "suite.yaml")
