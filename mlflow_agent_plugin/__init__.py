"""Put AI agents into production on MLflow.

MLflow decides which agent runs, and the agent asks before it acts; both decisions need evidence,
and both leave a record nobody can quietly change.

    import mlflow_agent_plugin as agents

    version = agents.log_agent("agents/support", name="support", registered_model_name="support")
    result = agents.evaluate("models:/support/1", suites=["evaluations/support"])
    agents.request_promotion("support", 1, to="Production")

Importing this package loads no other library; each name loads its room when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "AgentError": "mlflow_agent_plugin.errors",
    "load_bundle": "mlflow_agent_plugin.package",
    "diff": "mlflow_agent_plugin.package",
    "log_agent": "mlflow_agent_plugin.core",
    "save_agent": "mlflow_agent_plugin.core",
    "load_agent": "mlflow_agent_plugin.core",
    "validate": "mlflow_agent_plugin.core",
    "evaluate": "mlflow_agent_plugin.development",
    "gate_report": "mlflow_agent_plugin.registry",
    "request_promotion": "mlflow_agent_plugin.registry",
    "approve": "mlflow_agent_plugin.registry",
    "reject": "mlflow_agent_plugin.registry",
    "promote": "mlflow_agent_plugin.registry",
    "rollback": "mlflow_agent_plugin.registry",
    "history": "mlflow_agent_plugin.registry",
    "monitoring_table": "mlflow_agent_plugin.observability",
    "check_drift": "mlflow_agent_plugin.observability",
    "retrain": "mlflow_agent_plugin.lifecycle",
    "approvals_inbox": "mlflow_agent_plugin.interaction.notebook",
    "request_story": "mlflow_agent_plugin.interaction.notebook",
}

__all__ = [
    "AgentError",
    "__version__",
    "approvals_inbox",
    "approve",
    "check_drift",
    "diff",
    "evaluate",
    "gate_report",
    "history",
    "load_agent",
    "load_bundle",
    "log_agent",
    "monitoring_table",
    "promote",
    "reject",
    "request_promotion",
    "request_story",
    "retrain",
    "rollback",
    "save_agent",
    "validate",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import load_agent, log_agent, save_agent, validate
    from mlflow_agent_plugin.development import evaluate
    from mlflow_agent_plugin.errors import AgentError
    from mlflow_agent_plugin.interaction.notebook import approvals_inbox, request_story
    from mlflow_agent_plugin.lifecycle import retrain
    from mlflow_agent_plugin.observability import check_drift, monitoring_table
    from mlflow_agent_plugin.package import diff, load_bundle
    from mlflow_agent_plugin.registry import (
        approve,
        gate_report,
        history,
        promote,
        reject,
        request_promotion,
        rollback,
    )


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion in notebooks."""
    return sorted(set(globals()) | set(_LAZY))
