"""The support agent's graph: plan, act, plan again with what came back, until there is an answer.

::

    START -> plan -> (tool calls?) -> act -> plan ...
                  -> (an answer)   -> END
             act  -> (calls keep failing) -> hand_over -> act -> take_leave -> END

Rules:
- Every tool call, retrieval and hand-over included, goes through `context.tool_node()`: there is no
  other way to a tool.
- The model sees the last `memory.window_turns` turns, always whole ones: a result never stands
  without its call.
- Asking back, and handing over after asking back in vain, are the planner's: it knows how sure it
  is. Whatever model plans, the graph hands over itself when calls keep failing within one turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.graph import END, START, MessagesState, StateGraph

from mlflow_agent_plugin.information import recent_turns, select_memory

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import GraphContext

ESCALATION_TOOL = "escalate_to_human"
HAND_OVER = "hand-over-"
"""Start of the ids of the calls the graph makes itself."""


def build(context: GraphContext) -> StateGraph[Any, Any, Any, Any]:
    """Build the graph.

    Args:
        context: Model, tools, prompts and manifest; ``graph.settings.give_up_after_failures`` says
            after how many failed calls of one turn a person is called.
    """
    model = context.model.bind_tools(list(context.tools))
    system = SystemMessage(content=context.prompts["system"].render())
    give_up_after = int(context.settings.get("give_up_after_failures", 3))

    def plan(state: MessagesState) -> dict[str, list[BaseMessage]]:
        seen = select_memory(state["messages"], context.manifest.memory)
        return {"messages": [model.invoke([system, *seen])]}

    def hand_over(state: MessagesState) -> dict[str, list[BaseMessage]]:
        request = next(m for m in reversed(state["messages"]) if isinstance(m, HumanMessage))
        call = {
            "name": ESCALATION_TOOL,
            "args": {"topic": "tool_failure", "summary": request.text.strip() or "(no text)"},
            "id": f"{HAND_OVER}{len(state['messages'])}",
        }
        return {"messages": [AIMessage(content="", tool_calls=[call])]}

    def after_plan(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "act" if isinstance(last, AIMessage) and last.tool_calls else END

    def take_leave(state: MessagesState) -> dict[str, list[BaseMessage]]:
        result = state["messages"][-1]
        if isinstance(result, ToolMessage) and result.status == "success":
            return {"messages": [AIMessage(content=context.prompts["handed_over"].render())]}
        return {"messages": [AIMessage(content=context.prompts["nobody_reachable"].render())]}

    def after_act(state: MessagesState) -> str:
        turn = recent_turns(state["messages"], 1)
        results = [message for message in turn if isinstance(message, ToolMessage)]
        if results and results[-1].tool_call_id.startswith(HAND_OVER):
            return "take_leave"
        failed = sum(message.status == "error" for message in results)
        return "hand_over" if failed >= give_up_after else "plan"

    graph = StateGraph(MessagesState)
    graph.add_node("plan", plan)
    graph.add_node("act", context.tool_node())
    graph.add_node("hand_over", hand_over)
    graph.add_node("take_leave", take_leave)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", after_plan, ["act", END])
    graph.add_conditional_edges("act", after_act, ["plan", "hand_over", "take_leave"])
    graph.add_edge("hand_over", "act")
    graph.add_edge("take_leave", END)
    return graph
