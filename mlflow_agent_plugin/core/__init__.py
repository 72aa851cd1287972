"""The agent at run time: graph assembly, tool gateway, sessions, pyfunc model and flavor."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "AgentRuntime": "mlflow_agent_plugin.core.runtime",
    "TextDelta": "mlflow_agent_plugin.core.runtime",
    "GraphContext": "mlflow_agent_plugin.core.context",
    "ToolContext": "mlflow_agent_plugin.core.context",
    "LoadedAgent": "mlflow_agent_plugin.core.loaded",
    "load_agent": "mlflow_agent_plugin.core.loaded",
    "fetch_bundle": "mlflow_agent_plugin.core.flavor",
    "load_verified": "mlflow_agent_plugin.core.flavor",
    "log_agent": "mlflow_agent_plugin.core.flavor",
    "save_agent": "mlflow_agent_plugin.core.flavor",
    "model_card": "mlflow_agent_plugin.core.flavor",
    "open_resources": "mlflow_agent_plugin.core.assembly",
    "validate": "mlflow_agent_plugin.core.validation",
}

__all__ = [
    "AgentRuntime",
    "GraphContext",
    "LoadedAgent",
    "TextDelta",
    "ToolContext",
    "fetch_bundle",
    "load_agent",
    "load_verified",
    "log_agent",
    "model_card",
    "open_resources",
    "save_agent",
    "validate",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.core.assembly import open_resources
    from mlflow_agent_plugin.core.context import GraphContext, ToolContext
    from mlflow_agent_plugin.core.flavor import (
        fetch_bundle,
        load_verified,
        log_agent,
        model_card,
        save_agent,
    )
    from mlflow_agent_plugin.core.loaded import LoadedAgent, load_agent
    from mlflow_agent_plugin.core.runtime import AgentRuntime, TextDelta
    from mlflow_agent_plugin.core.validation import validate


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
