"""The calls a human must answer for.

- `record`: what an approval is.
- `rules`: the state machine, every rule in its docstring (pure).
- `queue`: the calls that wait, in the store (`reader`: looking at them; `rows`: as SQL has them).
- `inbox`: what a person may see of it, page by page.
- `trial`: would the agent run an edited call.
"""

from __future__ import annotations

from mlflow_agent_plugin.trust.approval.queue import ApprovalQueue
from mlflow_agent_plugin.trust.approval.record import Approval, ApprovalState, Vote
from mlflow_agent_plugin.trust.approval.trial import check_edit

__all__ = ["Approval", "ApprovalQueue", "ApprovalState", "Vote", "check_edit"]
