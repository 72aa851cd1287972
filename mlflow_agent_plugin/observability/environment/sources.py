"""Where an agent's tools and knowledge live outside: the format of ``environment.yaml``.

Passwords stand in environment variables: a header names the variable its value comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, model_validator

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document
from mlflow_agent_plugin.package.manifest import Name

HeaderVariables: TypeAlias = dict[str, Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=120)]


class OpenApiSource(StrictModel):
    """An HTTP API that describes itself (OpenAPI 3.0 or 3.1, JSON or YAML)."""

    kind: Literal["openapi"]
    location: str = Field(min_length=1, description="http(s) address of the document, or a file")
    operations: dict[Name, str] = Field(
        min_length=1, description="Tool name to the operationId of the call it makes"
    )
    headers: HeaderVariables = Field(
        default_factory=dict, description="Header to the environment variable with its value"
    )
    timeout_seconds: Seconds = 10.0

    @property
    def place(self) -> str:
        """Where it is."""
        return self.location


class McpSource(StrictModel):
    """An MCP server: over HTTP (`url`), or started as a process (`command`)."""

    kind: Literal["mcp"]
    url: str | None = Field(default=None, pattern=r"^https?://")
    command: list[str] = Field(default_factory=list)
    tools: dict[Name, str] | None = Field(
        default=None, description="Tool name to the server's name for it; default: the same name"
    )
    headers: HeaderVariables = Field(
        default_factory=dict, description="Header to the environment variable with its value"
    )
    timeout_seconds: Seconds = 10.0

    @model_validator(mode="after")
    def _has_one_place(self) -> McpSource:
        if (self.url is None) == (not self.command):
            raise ValueError("needs either url or command")
        return self

    @property
    def place(self) -> str:
        """Where it is."""
        return self.url or self.command[0]


class KnowledgeSource(StrictModel):
    """The knowledge base as it is kept now."""

    kind: Literal["knowledge"]
    location: str = Field(
        min_length=1, description="A folder, or any address MLflow can download from (s3://…)"
    )

    @property
    def place(self) -> str:
        """Where it is."""
        return self.location


Source: TypeAlias = Annotated[
    OpenApiSource | McpSource | KnowledgeSource, Field(discriminator="kind")
]


class EnvironmentSources(StrictModel):
    """The whole of ``environment.yaml``."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    sources: list[Source] = Field(min_length=1)


def load_sources(path: str | Path) -> EnvironmentSources:
    """Read an environment file; relative paths in it start at its own folder.

    Raises:
        ConfigError: It is missing or malformed; the message names file, line and field.
    """
    file = Path(path)
    found = validate_document(
        read_yaml(file, error=ConfigError), EnvironmentSources, error=ConfigError
    )
    base = file.resolve().parent
    return found.model_copy(
        update={
            "sources": [
                source
                if isinstance(source, McpSource) or "://" in source.location
                else source.model_copy(update={"location": str(base / source.location)})
                for source in found.sources
            ]
        }
    )


def shown_place(source: Source) -> str:
    """Return where `source` is, without user, password and query."""
    place = source.place
    parts = urlsplit(place)
    if not parts.netloc:
        return place
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
