"""The tools, one function each, and the order system they work on.

`context.actor` says who asks: it is never an argument, so the model cannot choose it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import ToolContext


class Orders:
    """An order system in memory; put a client of yours in its place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = {"A-1": "shipped", "A-2": "open"}

    def status(self, order_id: str) -> str:
        """Return an order's status, ``unknown`` if there is none."""
        with self._lock:
            return self._status.get(order_id, "unknown")

    def cancel(self, order_id: str) -> str:
        """Cancel an open order; return its status afterwards."""
        with self._lock:
            if self._status.get(order_id) == "open":
                self._status[order_id] = "cancelled"
            return self._status.get(order_id, "unknown")

    def snapshot(self) -> dict[str, Any]:
        """Return the world as suites check it (``expect.end_state``)."""
        with self._lock:
            return {"orders": dict(self._status)}


def open_orders(settings: Mapping[str, Any]) -> Orders:
    """Open what the tools work on; `settings` are ``tools.resource_settings`` of the manifest."""
    del settings
    return Orders()


def find_order(context: ToolContext, *, order_id: str) -> dict[str, Any]:
    """Look one order up."""
    return {"order_id": order_id, "status": context.resources.status(order_id)}


def cancel_order(context: ToolContext, *, order_id: str) -> dict[str, Any]:
    """Cancel one order."""
    return {"order_id": order_id, "status": context.resources.cancel(order_id)}
