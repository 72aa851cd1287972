"""The steward's graph: LangChain's own agent loop, the tool gateway last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from mlflow_agent_plugin.core import GraphContext


def build(context: GraphContext) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the graph.

    Args:
        context: Model, tools, prompts and manifest; ``graph.settings.max_model_calls`` says how
            often the model may be asked within one turn.
    """
    workflow = context.manifest.workflow
    return create_agent(
        context.model,
        list(context.tools),
        system_prompt=context.prompts["system"].render(
            goal=workflow.goal, criteria=workflow.acceptance_criteria
        ),
        middleware=[
            ModelCallLimitMiddleware(run_limit=int(context.settings.get("max_model_calls", 8))),
            context.middleware(),
        ],
        checkpointer=context.checkpointer,
        name="steward",
    )
