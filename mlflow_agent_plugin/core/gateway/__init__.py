"""The tool gateway: the only way from a graph to a tool.

Each call goes through these steps in this order, and any "no" ends it without an effect:

1. **turn**: the call belongs to a running turn, within its budget of calls.
2. **contract**: the tool exists and is usable, the arguments fit its input schema (after the
   privacy filter put true values in place of its tokens).
3. **policy**: the engine decides on the facts the host keeps; the decision is audited before
   anything else happens.
4. **approval**: a call that needs one waits (the graph pauses, nothing stays in memory); what
   counts on resume is the answer in the store, never what the caller sent, and only for the same
   tool, arguments, agent, policies and session. An approved call is decided again.
5. **guards**: quotas, limits and switches may refuse it; they settle when it has ended.
6. **ledger**: a write is claimed under the call's key before it starts; a finished one is replayed,
   one whose outcome is unknown is not repeated unless the tool is idempotent.
7. **tool**: with its credential and time limit; reads and idempotent writes are retried as the
   contract says.
8. **contract** again, for the output, which names the tool as the side that is wrong.
9. **audit** of the outcome.
"""

from mlflow_agent_plugin.core.gateway.gateway import ToolGateway
from mlflow_agent_plugin.core.gateway.governance import Governance

__all__ = ["Governance", "ToolGateway"]
