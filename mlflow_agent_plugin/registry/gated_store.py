"""Entry point of MLflow's model registry stores ``agents+sqlite``, ``agents+postgresql``, ….

    mlflow server --registry-store-uri agents+sqlite:///registry.db --backend-store-uri sqlite:///mlflow.db
    MlflowClient(registry_uri="agents+sqlite:///registry.db")

Every MLflow client, the UI included, then meets one gate. Ordinary models behave as in MLflow's own
store. MLflow imports this module when it looks for stores, so it loads nothing else; in a server it
also makes the registry's copies of agents read-only for clients (see `registry.guard`).
"""

from __future__ import annotations

import os
from typing import Any

from mlflow_agent_plugin.registry import guard

SCHEME = "agents+"

guard.install()


def make_store(
    store_uri: str | None = None,
    artifact_uri: str | None = None,
    tracking_uri: str | None = None,
) -> Any:
    """Open the gated registry store on a database.

    Args:
        store_uri: ``agents+`` and the SQLAlchemy URL of MLflow's registry database.
        artifact_uri: Not used; MLflow's builders may pass it.
        tracking_uri: Where evaluation runs are read from, if not MLflow's current one.

    Raises:
        MlflowException: The URL is malformed or names a database MLflow does not support.
    """
    del artifact_uri
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from mlflow_agent_plugin.registry import sql_store

    db_uri = database_uri(store_uri or "")
    try:
        make_url(db_uri)
    except ArgumentError:
        # The text itself is not repeated: a half-typed URL still holds its password.
        raise MlflowException(
            "The registry URI is not agents+ and a database URL, e.g. agents+sqlite:///registry.db",
            error_code=INVALID_PARAMETER_VALUE,
        ) from None
    kind = (
        sql_store.GatedWorkspaceStore if MLFLOW_ENABLE_WORKSPACES.get() else sql_store.GatedSqlStore
    )
    read_uri = os.environ.get("_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE")
    return kind(db_uri, read_db_uri=read_uri, tracking_uri=tracking_uri)


def database_uri(store_uri: str) -> str:
    """Return the SQLAlchemy URL behind a gated registry URI."""
    uri = store_uri.removeprefix(SCHEME)
    scheme, separator, rest = uri.partition("://")
    if scheme == "postgresql" and not _installed("psycopg2") and _installed("psycopg"):
        scheme = "postgresql+psycopg"
    if scheme == "mysql" and not _installed("MySQLdb") and _installed("pymysql"):
        scheme = "mysql+pymysql"
    return f"{scheme}{separator}{rest}"


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
