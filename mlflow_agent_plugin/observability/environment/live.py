"""Reads what servers and folders say now.

Rules:
- Nothing here calls a tool: an OpenAPI document is fetched, an MCP server is asked for its list.
- What is read is bounded in size and time. What cannot be read raises `DataError` with one line,
  in which no password stands.
- A server's text is data: it is parsed, compared and shown, never followed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import AgentError, DataError
from mlflow_agent_plugin.observability.environment.compare import LiveTool
from mlflow_agent_plugin.observability.environment.schemas import operations_of, tool_of
from mlflow_agent_plugin.observability.environment.sources import (
    KnowledgeSource,
    McpSource,
    OpenApiSource,
)

MAX_DOCUMENT_BYTES = 16 * 1024**2
MAX_TOOLS = 5000


def read_openapi(source: OpenApiSource) -> dict[str, LiveTool | AgentError]:
    """Return each of the source's tools the API still has, or why it cannot be understood.

    Raises:
        DataError: The document cannot be fetched or is no OpenAPI 3.
    """
    document = _parse(_fetch(source))
    operations = operations_of(document)
    found: dict[str, LiveTool | AgentError] = {}
    for tool, operation_id in source.operations.items():
        if operation_id not in operations:
            continue
        operation, shared = operations[operation_id]
        try:
            found[tool] = tool_of(tool, operation, shared, document)
        except DataError as error:
            found[tool] = error
        except (AttributeError, TypeError, ValueError, RecursionError):
            found[tool] = DataError(f"operation {operation_id} is malformed")
    return found


def read_mcp(source: McpSource) -> dict[str, LiveTool]:
    """Return the server's tools by the agent's names for them.

    Raises:
        DataError: The server does not answer, or does not speak MCP.
    """
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise DataError(
            "the mcp package is not installed", hint="pip install mlflow-agent-plugin[mcp]"
        ) from error
    import asyncio

    async def ask() -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
        return await asyncio.wait_for(_list_tools(source), source.timeout_seconds)

    try:
        # In a thread of its own: in a notebook this one has an event loop already.
        with ThreadPoolExecutor(1) as pool:
            listed = pool.submit(asyncio.run, ask()).result()
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise DataError(f"did not answer within {source.timeout_seconds:g} s") from error
    except DataError:
        raise
    except Exception as error:
        # The client wraps what went wrong in groups of groups: its kind is what can be told.
        raise DataError(f"does not answer as an MCP server: {_innermost(error)}") from error
    names = source.tools or {name: name for name in listed}
    return {
        tool: LiveTool(tool, *listed[theirs]) for tool, theirs in names.items() if theirs in listed
    }


def read_knowledge(source: KnowledgeSource) -> dict[str, str]:
    """Return the SHA-256 of each file, by path in the folder.

    Raises:
        DataError: The folder cannot be read.
    """
    if "://" not in source.location:
        return _digests(Path(source.location))
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            local = download_artifacts(artifact_uri=source.location, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise DataError(f"cannot be downloaded: {type(error).__name__}") from error
        except Exception as error:
            # boto3 and others raise kinds of their own.
            raise DataError(f"cannot be downloaded: {type(error).__name__}") from error
        return _digests(Path(local))


def _digests(folder: Path) -> dict[str, str]:
    from mlflow_agent_plugin.package.digest import hash_file
    from mlflow_agent_plugin.package.inventory import scan

    if not folder.is_dir():
        raise DataError("is no folder")
    try:
        return {
            path: hash_file(entry.location, where=str(entry.location))[0]
            for path, entry in scan(folder).items()
        }
    except AgentError as error:
        raise DataError(error.problem, where=error.where) from error


def _headers(variables: Mapping[str, str]) -> dict[str, str]:
    missing = sorted(name for name in variables.values() if not os.environ.get(name))
    if missing:
        raise DataError(f"the environment variable {missing[0]} is not set")
    return {header: os.environ[name] for header, name in variables.items()}


def _fetch(source: OpenApiSource) -> bytes:
    if not source.location.startswith(("http://", "https://")):
        try:
            with Path(source.location).open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        _check_size(data)
        return data
    import requests

    headers = {"Accept": "application/json, application/yaml;q=0.8", **_headers(source.headers)}
    try:
        with requests.get(
            source.location, headers=headers, timeout=source.timeout_seconds, stream=True
        ) as answer:
            if not answer.ok:
                raise DataError(f"answers {answer.status_code}")
            return _read(answer.raw, time.monotonic() + 3 * source.timeout_seconds)
    except (requests.RequestException, OSError) as error:
        raise DataError(f"cannot be fetched: {type(error).__name__}") from error


def _read(raw: Any, deadline: float) -> bytes:
    """Read a body piece by piece: a server that drips may not hold the watcher."""
    found = bytearray()
    while piece := raw.read1(65_536, decode_content=True):
        found += piece
        _check_size(found)
        if time.monotonic() > deadline:
            raise DataError("takes too long to send")
    return bytes(found)


def _check_size(data: bytes | bytearray) -> None:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DataError(f"is longer than {MAX_DOCUMENT_BYTES // 1024**2} MB")


def _parse(data: bytes) -> Mapping[str, Any]:
    import json

    import yaml

    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        try:
            found = yaml.safe_load(data)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError("is neither JSON nor YAML") from error
    if not isinstance(found, Mapping):
        raise DataError("is no OpenAPI 3 document", hint="Give the address of openapi.json.")
    return found


async def _list_tools(
    source: McpSource,
) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    import httpx2
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    found: dict[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]] = {}
    if source.command:
        server: Any = StdioServerParameters(command=source.command[0], args=source.command[1:])
    else:
        http = httpx2.AsyncClient(headers=_headers(source.headers), timeout=source.timeout_seconds)
        server = streamable_http_client(str(source.url), http_client=http)
    async with Client(server, read_timeout_seconds=source.timeout_seconds) as client:
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                described = tool.model_dump(by_alias=True)
                found[tool.name] = (described["inputSchema"], described.get("outputSchema"))
            cursor = page.model_dump(by_alias=True).get("nextCursor")
            if not cursor:
                return found
            if len(found) > MAX_TOOLS:
                raise DataError(f"lists more than {MAX_TOOLS} tools")


def _innermost(error: BaseException) -> str:
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return type(error).__name__
