"""The support agent's graph: plan, act, plan again with what came back, until there is an answer.

::

    START -> plan -> (tool calls?) -> act -> plan ...
                  -> (an answer)   -> END
             act  -> (calls keep failing) -> hand_over -> act

Rules:
- Every tool call, retrieval and hand-over included, goes through `context.tool_node()`: there is no
  other way to a tool.
- The model sees the last `memory.window_turns` turns, always whole ones: a result never stands
  without its call.
- Asking back, and handing over after asking back in vain, are the planner's: it knows how sure it
  is. Whatever model plans, the graph hands over itself when calls keep failing within one turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.graph import END, START, MessagesState, StateGraph

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import GraphContext

ESCALATION_TOOL = "escalate_to_human"


def build(context: GraphContext) -> StateGraph[Any, Any, Any, Any]:
    """Build the graph.

    Args:
        context: Model, tools, prompts and manifest; ``graph.settings.give_up_after_failures`` says
            after how many failed calls of one turn a person is called.
    """
    model = context.model.bind_tools(list(context.tools))
    system = SystemMessage(content=context.prompts["system"].render())
    memory = context.manifest.memory
    window_turns = memory.window_turns if memory.strategy == "window" else 1
    give_up_after = int(context.settings.get("give_up_after_failures", 3))

    def plan(state: MessagesState) -> dict[str, list[BaseMessage]]:
        seen = last_turns(state["messages"], window_turns)
        return {"messages": [model.invoke([system, *seen])]}

    def hand_over(state: MessagesState) -> dict[str, list[BaseMessage]]:
        request = next(m for m in reversed(state["messages"]) if isinstance(m, HumanMessage))
        call = {
            "name": ESCALATION_TOOL,
            "args": {"topic": "tool_failure", "summary": request.text.strip() or "(no text)"},
            "id": f"hand-over-{len(state['messages'])}",
        }
        return {"messages": [AIMessage(content="", tool_calls=[call])]}

    def after_plan(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "act" if isinstance(last, AIMessage) and last.tool_calls else END

    def after_act(state: MessagesState) -> str:
        turn = last_turns(state["messages"], 1)
        results = [message for message in turn if isinstance(message, ToolMessage)]
        failed = sum(message.status == "error" for message in results)
        handed_over = any(message.name == ESCALATION_TOOL for message in results)
        return "hand_over" if failed >= give_up_after and not handed_over else "plan"

    graph = StateGraph(MessagesState)
    graph.add_node("plan", plan)
    graph.add_node("act", context.tool_node())
    graph.add_node("hand_over", hand_over)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", after_plan, ["act", END])
    graph.add_conditional_edges("act", after_act, ["plan", "hand_over"])
    graph.add_edge("hand_over", "act")
    return graph


def last_turns(messages: Sequence[BaseMessage], turns: int) -> list[BaseMessage]:
    """Return the messages of the last `turns` turns; a turn begins with what the user says."""
    starts = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
    if len(starts) <= turns:
        return list(messages)
    return list(messages[starts[-turns] :])
