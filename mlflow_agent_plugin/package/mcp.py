"""MCP servers as tool sources: what `agent.yaml` says about them, and what pins their schemas.

Rules:
- Each tool of a server that the agent uses is named, has a contract of the agent's own like any
  other tool, and pins the digest of what the server declares for it: a server whose declaration
  changed is not called.
- The model sees the contract's description, never the server's: a server cannot talk to it before
  it has been called.
- What a server returns is untrusted, unless the contract says otherwise in so many words.
- Secrets stand in environment variables: a header names the variable its value comes from.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.package.strict import Name, StrictModel

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SchemaDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_PASSWORD = re.compile(r"^https?://[^/]*@", re.IGNORECASE)


class McpTool(StrictModel):
    """One tool of a server."""

    name: Name = Field(description="The agent's name for it; its contract has the same")
    tool: str | None = Field(default=None, min_length=1, description="The server's name for it")
    digest: SchemaDigest = Field(description="Of what the server declares; `mlflow-agents mcp pin`")

    @property
    def remote(self) -> str:
        """The server's name for the tool."""
        return self.tool or self.name


class McpServer(StrictModel):
    """An MCP server: over HTTP (`url`), or started as a process (`command`)."""

    name: Name
    url: str | None = Field(default=None, pattern=r"^https?://")
    command: list[str] = Field(
        default_factory=list, description="Run in the bundle's folder, speaks over stdin and stdout"
    )
    headers: dict[str, EnvironmentName] = Field(
        default_factory=dict, description="Header to the environment variable with its value"
    )
    environment: list[EnvironmentName] = Field(
        default_factory=list, description="Environment variables the process gets beside the usual"
    )
    connect_seconds: float = Field(default=10.0, gt=0, le=120)
    errors_have_no_effect: bool = Field(
        default=False,
        description="The server promises that a call it answers with an error did nothing. Without "
        "that, such a call of a write that must not be repeated is put before a person.",
    )
    tools: list[McpTool] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_one_place(self) -> McpServer:
        if (self.url is None) == (not self.command):
            raise ValueError("needs either url or command")
        if self.url is None and self.headers:
            raise ValueError("headers go with url; a process gets environment")
        if self.url is not None and self.environment:
            raise ValueError("environment goes with command; a server at a url gets headers")
        if self.url is not None and _PASSWORD.match(self.url):
            raise ValueError("url holds a password; put it into a header")
        return self


def schema_digest(name: str, input_schema: Any, output_schema: Any) -> str:
    """Return the digest of what a server declares for a tool.

    Args:
        name: The server's name for it.
        input_schema: JSON Schema of its arguments.
        output_schema: JSON Schema of what it returns, None if it does not say.

    Raises:
        ValueError: The schemas are not plain JSON.
    """
    return str(sha256_of_json({"name": name, "input": input_schema, "output": output_schema}))
