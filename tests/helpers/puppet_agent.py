"""A graph whose model makes the calls the user dictates, as JSON; some values are made on the spot."""

from __future__ import annotations

PUPPET_GRAPH_PY = '''
"""The user says, as JSON, which calls the model makes."""
import json

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langgraph.graph import END, START, MessagesState, StateGraph


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


MADE = {
    "nan": float("nan"), "inf": float("-inf"), "huge": 10**400, "surrogate": "\\ud800",
    "megabyte": "x" * 1_000_000, "deep": deep(1000), "list": json.loads("[" * 300 + "]" * 300),
}


def make(value):
    if isinstance(value, str) and value.startswith("make:"):
        levels, is_depth, _ = value[5:].partition(" levels")
        return deep(int(levels)) if is_depth else MADE[value[5:]]
    if isinstance(value, dict):
        return {key: make(part) for key, part in value.items()}
    return value


def plan(state):
    last = state["messages"][-1]
    if not isinstance(last, HumanMessage):
        return {"messages": [AIMessage(content="end")]}
    calls, broken = [], []
    for call in json.loads(last.text):
        if "raw" not in call:
            calls.append({"type": "tool_call", **call, "args": make(call["args"])})
            continue
        # As text, the way a provider sends it: read by LangChain's own parser.
        sent = {"id": call["id"], "function": {"name": call["name"], "arguments": call["raw"]}}
        try:
            calls.append(parse_tool_call(sent, return_id=True))
        except Exception as error:
            broken.append(make_invalid_tool_call(sent, str(error)))
    return {"messages": [
        AIMessage.model_construct(content="", tool_calls=calls, invalid_tool_calls=broken)
    ]}


def build(context):
    graph = StateGraph(MessagesState)
    graph.add_node("plan", plan)
    graph.add_node("tools", context.tool_node())
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda s: "tools" if getattr(s["messages"][-1], "tool_calls", None) else END
    )
    graph.add_edge("tools", "plan")
    return graph
'''
