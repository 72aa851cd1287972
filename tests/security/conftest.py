"""A gated registry on each database it supports here."""

from __future__ import annotations

import pytest
from helpers.registry_world import World


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def world(request, tmp_path, monkeypatch):
    """Give a gated registry: once on sqlite, once on PostgreSQL."""
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", (tmp_path / "content").as_uri())
    if request.param == "sqlite":
        return World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
    return World(tmp_path, f"agents+{request.getfixturevalue('postgres_uri')}")
