"""One agent at run time: takes a user's turn, gives the agent's.

Rules:
- A session belongs to the actor who opened it; anyone else is told that it does not exist.
- One turn at a time per session, in all processes together: the others are told it is busy.
- A turn that a crash cut off is finished first, from the last checkpoint, before a new one begins;
  the ledger keeps its effects from happening twice.
- A session that waits for a human stays paused until the approval is answered or expires; what is
  said in between is not processed, and the reply says so.
- An agent of another digest does not resume a paused or cut-off turn: its approvals and effects
  were for other content.
- Errors of the graph or model leave as one `AgentRunError` with the request id; details go to the
  log and the audit, not to the client.
"""

from mlflow_agent_plugin.core.runtime.runtime import AgentRuntime
from mlflow_agent_plugin.core.runtime.steps import TextDelta

__all__ = ["AgentRuntime", "TextDelta"]
