"""The graph: LangChain's agent loop, with the tool gateway as its last middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import GraphContext


def build(context: GraphContext) -> Any:
    """Build the graph."""
    return create_agent(
        context.model,
        list(context.tools),
        system_prompt=context.prompts["system"].render(goal=context.manifest.workflow.goal),
        middleware=[context.middleware()],
        checkpointer=context.checkpointer,
        name="order_desk",
    )
