"""What the console and the API work on: the server's registry, runtime store and audits.

Opened once per process and shared by all requests.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue


@dataclass
class Records:
    """The server's own stores."""

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow client on the databases of this server, not on its own address."""
        import os

        from mlflow import MlflowClient

        return MlflowClient(
            tracking_uri=os.environ["_MLFLOW_SERVER_FILE_STORE"],
            registry_uri=os.environ["_MLFLOW_SERVER_REGISTRY_STORE"],
        )

    @cached_property
    def runtime(self) -> Store:
        """The runtime store: sessions, approvals, audit of what agents did."""
        from mlflow_agent_plugin.store import Store

        return Store.open()

    @cached_property
    def registry_store(self) -> Store:
        """The store that holds the registry's audit; the runtime store where both are one."""
        found: Any = self.client._get_registry_client().store  # noqa: SLF001 - no public way
        return found._transactions.audit.store  # type: ignore[no-any-return]  # noqa: SLF001

    @cached_property
    def queue(self) -> ApprovalQueue:
        """The approval queue; where people log in, only their answers count."""
        from mlflow_agent_plugin.interaction.web.people import login_required
        from mlflow_agent_plugin.trust import ApprovalQueue

        return ApprovalQueue(self.runtime, require_verified=True if login_required() else None)


_lock = threading.Lock()
_made: list[Records] = []


def records() -> Records:
    """Return the process's records."""
    with _lock:
        if not _made:
            _made.append(Records())
        return _made[0]
