"""What a bundle's own code sees: one context to build the graph, one for each tool call.

Rules:
- A graph gets its tools only as descriptions (`GraphContext.tools`, to bind to a model). Running
  one past the gateway raises `UngovernedToolCallError`.
- The two doors to a tool are `GraphContext.tool_node` (raw `StateGraph`) and
  `GraphContext.middleware` (LangChain's `create_agent`; it goes last in the list, so that nothing
  behind it can change a call that was decided).
- A tool learns who asks from its context, never from the model's arguments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import UngovernedToolCallError

if TYPE_CHECKING:
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.prebuilt import ToolNode
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from mlflow_agent_plugin.information import KnowledgeIndex
    from mlflow_agent_plugin.package import Manifest, Prompt, ToolContract
    from mlflow_agent_plugin.trust import Credential


@dataclass(frozen=True)
class ToolContext:
    """What a tool may know beside its arguments.

    Attributes:
        actor: Who asks; a tool reads the customer from here, never from the model.
        session_id: Conversation the call belongs to.
        idempotency_key: The same for every try of one call; pass it on to the system of record.
        resources: What the manifest's ``tools.resources`` entry point opened, or None.
        knowledge: The bundle's knowledge index, or None.
        now: Time of the call, UTC.
        credential: What was lent for the contract's scopes, for this call only; None without one.
    """

    actor: Actor
    session_id: str
    idempotency_key: str
    resources: Any
    knowledge: KnowledgeIndex | None
    now: datetime
    credential: Credential | None = field(default=None, repr=False)


Govern = Callable[["ToolCallRequest"], "ToolMessage"]
"""Takes one call through contract, policy, approval, ledger and audit to its result."""


@dataclass(frozen=True)
class GraphContext:
    """What ``build(context)`` of a bundle assembles its graph from.

    Attributes:
        model: Chat model of the manifest, with its fallbacks, not yet bound to tools.
        tools: Descriptions of the usable tools, for ``model.bind_tools`` or ``create_agent``.
        prompts: Prompts by name.
        knowledge: Knowledge index, or None.
        settings: ``graph.settings`` of the manifest.
        manifest: The whole manifest.
        checkpointer: Durable session state, for graphs that compile themselves.
    """

    model: BaseChatModel
    tools: Sequence[BaseTool]
    prompts: Mapping[str, Prompt]
    knowledge: KnowledgeIndex | None
    settings: Mapping[str, Any]
    manifest: Manifest
    checkpointer: BaseCheckpointSaver[Any]
    govern: Govern = field(repr=False)

    def tool_node(self) -> ToolNode:
        """Return the node that runs tool calls, each through the gateway."""
        from langgraph.prebuilt import ToolNode

        def wrap(request: ToolCallRequest, _handler: object) -> ToolMessage:
            return self.govern(request)

        return ToolNode(list(self.tools), wrap_tool_call=wrap, handle_tool_errors=False)

    def middleware(self) -> AgentMiddleware[Any, Any]:
        """Return the agent middleware that runs tool calls through the gateway; put it last."""
        from langchain.agents.middleware import AgentMiddleware

        govern = self.govern

        class ToolGatewayMiddleware(AgentMiddleware[Any, Any]):
            """Every tool call goes through the gateway."""

            def wrap_tool_call(
                self, request: ToolCallRequest, _handler: Callable[..., Any]
            ) -> ToolMessage:
                return govern(request)

            async def awrap_tool_call(
                self, request: ToolCallRequest, _handler: Callable[..., Awaitable[Any]]
            ) -> ToolMessage:
                import asyncio

                return await asyncio.to_thread(govern, request)

        return ToolGatewayMiddleware()


def describe_tools(contracts: Sequence[ToolContract]) -> list[BaseTool]:
    """Return tool descriptions a chat model can be bound to; they cannot be run."""
    from langchain_core.tools import StructuredTool

    def refuse(name: str) -> Callable[..., Any]:
        def run(**_arguments: Any) -> Any:
            raise UngovernedToolCallError(
                f"tool {name!r} was called past the gateway",
                hint="Use context.tool_node() or context.middleware() in the bundle's graph.",
            )

        return run

    return [
        StructuredTool(
            name=contract.name,
            description=contract.description,
            args_schema=contract.input,
            func=refuse(contract.name),
        )
        for contract in contracts
    ]
