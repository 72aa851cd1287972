"""What an MCP server declares now: for whoever pins it, or looks at what changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.core.mcp.link import McpLink
from mlflow_agent_plugin.package.mcp import McpServer, schema_digest


@dataclass(frozen=True)
class Declared:
    """One tool as its server declares it.

    Attributes:
        name: The server's name for it.
        output: None if the server does not say what it returns.
        digest: What a manifest pins.
    """

    name: str
    description: str
    input: dict[str, Any]
    output: dict[str, Any] | None
    digest: str


def declared_tools(server: McpServer, folder: str | Path = ".") -> list[Declared]:
    """Ask a server what it has; no tool is called.

    Args:
        server: Where it is.
        folder: Where its process runs.

    Raises:
        ToolUnavailableError: It does not answer, or does not speak MCP.
    """
    link = McpLink(server, Path(folder))
    try:
        found = link.declarations()
    finally:
        link.close()
    return [
        Declared(name, description, dict(given), output, schema_digest(name, given, output))
        for name, (given, output, description) in sorted(found.items())
    ]
