"""The tools of a bundle's MCP servers, as functions the gateway runs.

Rules:
- Structured output is the tool's output; without it, the text of the answer is ``{"text": …}``.
  Images, sound and links are refused.
- An answer with `isError` says that the call failed, not that nothing happened: for a write that
  must not be repeated the outcome is unknown, unless the manifest says that the server promises.
- The idempotency key goes with every call, for servers that know what to do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.mcp.link import McpLink
from mlflow_agent_plugin.entities import Effect
from mlflow_agent_plugin.errors import ConfigError, ToolCallError

if TYPE_CHECKING:
    from mlflow_agent_plugin.core.context import ToolContext
    from mlflow_agent_plugin.package import Bundle, ToolContract
    from mlflow_agent_plugin.package.mcp import McpServer, McpTool

IDEMPOTENCY_META = "mlflow-agents/idempotency-key"
MAX_ERROR_CHARS = 500

ToolFunction = Callable[..., Any]


class McpTools:
    """Connections to the servers of one bundle; made at the first call, closed by `close`.

    Args:
        bundle: The agent.

    Raises:
        ConfigError: The bundle has MCP servers, and the ``mcp`` package is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        servers = bundle.manifest.tools.mcp
        if servers:
            _check_installed()
        usable = set(bundle.manifest.usable_tools())
        self._links: list[McpLink] = []
        self.functions: dict[str, ToolFunction] = {}
        for server in servers:
            link = McpLink(server, bundle.root)
            self._links.append(link)
            for tool in server.tools:
                if tool.name in usable:
                    contract = bundle.contracts[tool.name]
                    self.functions[tool.name] = _function(link, server, tool, contract)

    def close(self) -> None:
        """End every connection."""
        for link in self._links:
            link.close()


def _function(
    link: McpLink, server: McpServer, tool: McpTool, contract: ToolContract
) -> ToolFunction:
    may_repeat = contract.effect is Effect.READ or contract.idempotent

    def call(context: ToolContext, **arguments: Any) -> dict[str, Any]:
        result = link.call(
            tool.remote,
            tool.digest,
            arguments,
            meta={IDEMPOTENCY_META: context.idempotency_key},
            timeout_seconds=contract.timeout_seconds,
        )
        if result.is_error:
            said = _text(result)[:MAX_ERROR_CHARS] or "no reason"
            if may_repeat or server.errors_have_no_effect:
                raise ToolCallError(f"the server answered with an error: {said}", where=tool.name)
            # Read as an outage whose outcome nobody knows (`core.resilience.faults`).
            raise ConnectionError(f"{tool.name} answered with an error: {said}")
        found = result.structured_content
        if isinstance(found, dict):
            return found
        if found is not None:
            raise ToolCallError("the server's structured output is no object", where=tool.name)
        return {"text": _text(result)}

    call.__name__ = tool.name
    return call


def _text(result: Any) -> str:
    texts = []
    for block in result.content:
        if getattr(block, "type", None) != "text":
            kind = getattr(block, "type", "?")
            raise ToolCallError(f"the server answered with {kind}, which is not supported")
        texts.append(block.text)
    return "\n".join(texts)


def _check_installed() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the agent's tools come from MCP servers, and mcp is not installed",
            hint="pip install 'mlflow-agent-plugin[mcp]'",
        ) from error
