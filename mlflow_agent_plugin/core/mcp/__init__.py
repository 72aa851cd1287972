"""Tools of MCP servers, called through the gateway like any other.

- `core.mcp.link`: one connection to one server, checked against what the bundle pins.
- `core.mcp.tools`: its tools as functions the gateway runs.
- `core.mcp.pinning`: what a server declares now, for whoever writes the bundle.
"""

from mlflow_agent_plugin.core.mcp.pinning import Declared, declared_tools
from mlflow_agent_plugin.core.mcp.tools import McpTools

__all__ = ["Declared", "McpTools", "declared_tools"]
