"""Entry point of MLflow's artifact repository for ``models:/`` URIs.

MLflow resolves every ``models:/`` URI through this, whoever loads: `mlflow.pyfunc.load_model`,
``mlflow models serve``, ``build-docker``, `spark_udf`, `mlflow.artifacts`. It is MLflow's own
repository with one check more, for agents (see `core.promoted`); MLflow imports this module with
itself, so it loads nothing.
"""

from __future__ import annotations

from typing import Any


def make_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """Open MLflow's repository of a model that checks what it downloads.

    Args:
        artifact_uri: ``models:/…``.
        tracking_uri: As MLflow passes it.
        registry_uri: As MLflow passes it.
    """
    from mlflow_agent_plugin.core.promoted import CheckedModelsRepository

    return CheckedModelsRepository(artifact_uri, tracking_uri, registry_uri)
