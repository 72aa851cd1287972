"""The calls a human must answer for.

- `rules`: the state machine, every rule in its docstring (pure).
- `queue`: the calls that wait, in the store.
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.approval.queue import ApprovalQueue
from mlflow_agent_plugin.trust.approval.rules import Approval, ApprovalState

__all__ = ["Approval", "ApprovalQueue", "ApprovalState"]
