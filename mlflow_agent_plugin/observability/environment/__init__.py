"""Environment drift: do the tools and the knowledge outside still look like what was pinned?

    sources = load_sources("pipelines/environment.yaml")
    verdict = check_environment(Pins.of_bundle(bundle), sources)

A version pins what it was built against: a contract for each tool, a digest for each file of its
knowledge base. `verdict` holds the values, `compare` the rules (pure), `schemas` and `live` read
what the world says now, `check` joins them and `tracking` keeps the answer in MLflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "EnvironmentPart": "mlflow_agent_plugin.observability.environment.verdict",
    "EnvironmentSources": "mlflow_agent_plugin.observability.environment.sources",
    "EnvironmentVerdict": "mlflow_agent_plugin.observability.environment.verdict",
    "PartStatus": "mlflow_agent_plugin.observability.environment.verdict",
    "Pins": "mlflow_agent_plugin.observability.environment.compare",
    "check_environment": "mlflow_agent_plugin.observability.environment.check",
    "load_sources": "mlflow_agent_plugin.observability.environment.sources",
    "log_environment": "mlflow_agent_plugin.observability.environment.tracking",
}

__all__ = [
    "EnvironmentPart",
    "EnvironmentSources",
    "EnvironmentVerdict",
    "PartStatus",
    "Pins",
    "check_environment",
    "load_sources",
    "log_environment",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.environment.check import check_environment
    from mlflow_agent_plugin.observability.environment.compare import Pins
    from mlflow_agent_plugin.observability.environment.sources import (
        EnvironmentSources,
        load_sources,
    )
    from mlflow_agent_plugin.observability.environment.tracking import log_environment
    from mlflow_agent_plugin.observability.environment.verdict import (
        EnvironmentPart,
        EnvironmentVerdict,
        PartStatus,
    )


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion in notebooks."""
    return sorted(set(globals()) | set(_LAZY))
