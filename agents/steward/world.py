"""The world behind the steward: MLflow's registry, reached through `lifecycle.proposals` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_agent_plugin.lifecycle.proposals import Proposals

SETTINGS = frozenset({"models", "suites", "project", "logs"})


def open_world(settings: Mapping[str, Any]) -> Proposals:
    """Open what may be proposed.

    Args:
        settings: ``models`` (name to slot), ``suites`` (name to file), ``project`` (the checkout)
            and ``logs`` (a folder).

    Raises:
        ValueError: A setting is not one of these.
    """
    unknown = sorted(set(settings) - SETTINGS)
    if unknown:
        raise ValueError(f"there is no setting {unknown[0]}; known: {', '.join(sorted(SETTINGS))}")
    return Proposals(**settings)
