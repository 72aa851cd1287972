"""What this plugin knows, offered over MCP: to read, never to change.

    mlflow-agents mcp serve                      # over stdin and stdout, for one's own assistant
    mlflow-agents mcp serve --port 8001 --keys keys.yaml

- `mcp.reading`: what can be asked, as plain functions of who asks.
- `mcp.server`: them as tools of an MCP server, with login over HTTP.
"""
