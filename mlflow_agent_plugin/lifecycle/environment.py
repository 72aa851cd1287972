"""Environment drift of a registered version: its own bundle holds the pins."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.environment import (
        EnvironmentSources,
        EnvironmentVerdict,
        Pins,
    )


def read_pins(model_uri: str) -> Pins:
    """Return what an agent was built against.

    Args:
        model_uri: Any MLflow model URI of an agent, or the folder of a bundle.

    Raises:
        IntegrityError: The content is not what was logged.
        BundleError: It is no agent.
        MlflowException: There is no such model.
    """
    from pathlib import Path

    from mlflow_agent_plugin.core.flavor import fetch_bundle
    from mlflow_agent_plugin.observability.environment import Pins
    from mlflow_agent_plugin.package import MANIFEST_FILE, load_bundle

    if "://" not in model_uri and (Path(model_uri) / MANIFEST_FILE).is_file():
        return Pins.of_bundle(load_bundle(model_uri))
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        return Pins.of_bundle(fetch_bundle(model_uri, destination=folder))


def look_at_environment(
    model_name: str,
    version: str,
    sources: EnvironmentSources,
    *,
    log: bool = True,
    experiment: str = "drift",
) -> EnvironmentVerdict:
    """Compare a version's tools and knowledge with what they are now, and keep the answer.

    Args:
        model_name: Registered model.
        version: Its version.
        sources: Where tools and knowledge live.
        log: Keep the verdict in an MLflow run, if it differs from the last one kept.
        experiment: Where that run goes.

    Raises:
        ConfigError: A source names what the agent has not.
        IntegrityError: The version's content is not what was logged.
        MlflowException: There is no such version, or the server is away.
    """
    from mlflow_agent_plugin.observability.environment import check_environment, log_environment
    from mlflow_agent_plugin.observability.environment.tracking import last_environment

    verdict = check_environment(read_pins(f"models:/{model_name}/{version}"), sources)
    if log:
        before = last_environment(model_name, version)
        if before is None or before.parts != verdict.parts:
            log_environment(verdict, model_name=model_name, version=version, experiment=experiment)
    return verdict
