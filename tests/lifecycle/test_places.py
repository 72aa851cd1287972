"""Addresses that mean the same everywhere."""

import pytest

from mlflow_agent_plugin.lifecycle.places import absolute_uri


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:////srv/mlflow.db"),
        ("sqlite:///data/m.db?timeout=5", "sqlite:////srv/data/m.db?timeout=5"),
        ("agents+sqlite:///mlflow.db", "agents+sqlite:////srv/mlflow.db"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("mlruns", "/srv/mlruns"),
        ("./mlruns", "/srv/mlruns"),
        ("/abs/mlruns", "/abs/mlruns"),
        ("file:///abs/mlruns", "file:///abs/mlruns"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql+psycopg://u:p@host/db", "postgresql+psycopg://u:p@host/db"),
        ("agents+postgresql://host/db", "agents+postgresql://host/db"),
        ("databricks", "databricks"),
    ],
)
def test_only_relative_paths_are_made_absolute(uri, absolute):
    assert absolute_uri(uri, base="/srv") == absolute
