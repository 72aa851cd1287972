"""Opens the store a command works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store


def open_store(store_uri: str | None) -> Store:
    """Open the runtime store an option or the settings name."""
    from mlflow_agent_plugin.store import Store

    return Store.open(store_uri)
