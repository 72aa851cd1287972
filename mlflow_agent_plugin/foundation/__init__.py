"""Chat models behind one interface: the local planner, a script, or any LangChain provider.

    model = build_chat_model(bundle.manifest.model, bundle)
    model.bind_tools(tools).invoke("My card was stolen")

Names load when first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "LocalPlanner": "mlflow_agent_plugin.foundation.planner.chat_model",
    "Playbook": "mlflow_agent_plugin.foundation.planner.playbook",
    "TrainedPlanner": "mlflow_agent_plugin.foundation.planner.intent_model",
    "build_chat_model": "mlflow_agent_plugin.foundation.models",
    "load_playbook": "mlflow_agent_plugin.foundation.planner.reading",
    "train_planner": "mlflow_agent_plugin.foundation.planner.training",
}

__all__ = [
    "LocalPlanner",
    "Playbook",
    "TrainedPlanner",
    "build_chat_model",
    "load_playbook",
    "train_planner",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.foundation.models import build_chat_model
    from mlflow_agent_plugin.foundation.planner.chat_model import LocalPlanner
    from mlflow_agent_plugin.foundation.planner.intent_model import TrainedPlanner
    from mlflow_agent_plugin.foundation.planner.playbook import Playbook
    from mlflow_agent_plugin.foundation.planner.reading import load_playbook
    from mlflow_agent_plugin.foundation.planner.training import train_planner


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion in notebooks."""
    return sorted(set(globals()) | set(_LAZY))
