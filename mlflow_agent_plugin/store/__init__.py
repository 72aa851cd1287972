"""The runtime store: one SQL database for sessions, approvals, effects and audit.

    from mlflow_agent_plugin.store import Store

    store = Store.open("sqlite:///agents.db")
    with store.begin() as connection:   # a write transaction; commits at the end, or not at all
        ...

Importing this room loads no SQLAlchemy; each name loads its module when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Store": "mlflow_agent_plugin.store.engine",
    "Lease": "mlflow_agent_plugin.store.sessions",
    "SessionRecord": "mlflow_agent_plugin.store.sessions",
    "SessionTable": "mlflow_agent_plugin.store.sessions",
    "SessionSpend": "mlflow_agent_plugin.store.spend",
    "SpendTable": "mlflow_agent_plugin.store.spend",
}

__all__ = ["Lease", "SessionRecord", "SessionSpend", "SessionTable", "SpendTable", "Store"]

if TYPE_CHECKING:
    from mlflow_agent_plugin.store.engine import Store
    from mlflow_agent_plugin.store.sessions import Lease, SessionRecord, SessionTable
    from mlflow_agent_plugin.store.spend import SessionSpend, SpendTable


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted(set(globals()) | set(_LAZY))
