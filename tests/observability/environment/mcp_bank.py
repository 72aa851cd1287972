"""A real MCP server: ``python mcp_bank.py stdio`` or ``http <port>``; ``BANK_CHANGED`` changes it."""

import os
import sys

from mcp.server import MCPServer

server = MCPServer("bank")

if os.environ.get("BANK_CHANGED"):

    @server.tool()
    def get_account(account_id: str, branch: str) -> dict[str, int]:
        """Show one account."""
        return {"balance_minor": len(account_id + branch)}
else:

    @server.tool()
    def get_account(account_id: str) -> dict[str, int]:
        """Show one account."""
        return {"balance_minor": len(account_id)}


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
