"""What an agent knows and remembers: its knowledge base, and the turns of a conversation.

    index = KnowledgeIndex.build("agents/support/knowledge", RetrievalSpec())
    index.search("How do I freeze my card?")[0].text

Names load when first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "KnowledgeIndex": "mlflow_agent_plugin.information.knowledge",
    "Passage": "mlflow_agent_plugin.information.knowledge",
    "recent_turns": "mlflow_agent_plugin.information.memory",
    "select_memory": "mlflow_agent_plugin.information.memory",
}

__all__ = ["KnowledgeIndex", "Passage", "recent_turns", "select_memory"]

if TYPE_CHECKING:
    from mlflow_agent_plugin.information.knowledge import KnowledgeIndex, Passage
    from mlflow_agent_plugin.information.memory import recent_turns, select_memory


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
