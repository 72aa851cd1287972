"""Pytest plugin: MLflow's own tests meet the gated store wherever they open a SQL registry.

    python -m pytest -p mlflow_suite.gated tests/store/model_registry/test_sqlalchemy_store.py

In this process MLflow's store classes are replaced by the gated ones. Servers the tests start get
the registry by its URI, as a user gives it: ``agents+`` and the database's URL.
"""

from __future__ import annotations

import subprocess
from typing import Any

from mlflow.store.model_registry import sqlalchemy_store, sqlalchemy_workspace_store

from mlflow_agent_plugin.registry.gated_store import database_uri
from mlflow_agent_plugin.registry.sql_store import GatedSqlStore, GatedWorkspaceStore

BACKEND, REGISTRY = "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE"

sqlalchemy_store.SqlAlchemyStore = GatedSqlStore
sqlalchemy_workspace_store.WorkspaceAwareSqlAlchemyStore = GatedWorkspaceStore

_start = subprocess.Popen.__init__


def _start_gated(self: Any, *args: Any, **kwargs: Any) -> None:
    env = kwargs.get("env") or {}
    backend = env.get(BACKEND, "")
    if "://" in backend and not env.get(REGISTRY):
        kwargs["env"] = {**env, REGISTRY: f"agents+{backend}"}
    _start(self, *args, **kwargs)


subprocess.Popen.__init__ = _start_gated  # type: ignore[method-assign]


def pytest_report_header() -> str:
    """Say in the report which store was tested."""
    return f"registry stores: {GatedSqlStore.__name__} on {database_uri('agents+sqlite://')}"
