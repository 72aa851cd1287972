"""The graph of a bundle without governance, as a stock MLflow ResponsesAgent (models from code).

What `benchmarks/served_request.py` compares with: the same graph, planner, tools, session store and
scoring server, traced by MLflow's own autologging. No actor token, policy, approval, ledger, audit,
quota, lease or privacy filter: a tool call is a call of its function.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import mlflow
from langchain_core.messages import HumanMessage, ToolMessage
from mlflow.models import set_model
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse


class Ungoverned(ResponsesAgent):
    """The graph of the bundle in ``UNGOVERNED_BUNDLE``, its sessions in ``UNGOVERNED_STORE``."""

    def load_context(self, context: Any) -> None:
        """Build the graph as the runtime does, its tools called as they are."""
        del context
        from mlflow_agent_plugin.core.assembly import (
            build_graph,
            load_functions,
            load_knowledge,
            open_resources,
            parse_resource_overrides,
        )
        from mlflow_agent_plugin.core.checkpoints import open_checkpointer
        from mlflow_agent_plugin.core.context import ToolContext
        from mlflow_agent_plugin.entities import Actor
        from mlflow_agent_plugin.package import load_bundle
        from mlflow_agent_plugin.store import Store

        bundle = load_bundle(os.environ["UNGOVERNED_BUNDLE"])
        functions: dict[str, Callable[..., Any]] = load_functions(bundle)
        knowledge = load_knowledge(bundle)
        overrides = parse_resource_overrides(os.environ.get("MLFLOW_AGENTS_RESOURCES"))
        resources = open_resources(bundle, overrides)
        actor = Actor("amira", roles=frozenset({"customer"}))

        def call_tool(request: Any) -> ToolMessage:
            call = request.tool_call
            output = functions[call["name"]](
                ToolContext(
                    actor=actor,
                    session_id="",
                    idempotency_key=uuid.uuid4().hex,
                    resources=resources,
                    knowledge=knowledge,
                    now=datetime.now(timezone.utc),
                ),
                **call["args"],
            )
            return ToolMessage(
                json.dumps(output, ensure_ascii=False), name=call["name"], tool_call_id=call["id"]
            )

        store = Store.open(os.environ["UNGOVERNED_STORE"])
        self._graph = build_graph(
            bundle,
            govern=call_tool,
            knowledge=knowledge,
            checkpointer=open_checkpointer(store),
        )
        self._steps = bundle.manifest.model.budgets.max_steps

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        """Run one turn."""
        session = request.context.conversation_id if request.context else uuid.uuid4().hex
        text = request.input[-1].content
        done = self._graph.invoke(
            {"messages": [HumanMessage(text, id=uuid.uuid4().hex)]},
            {"configurable": {"thread_id": session}, "recursion_limit": self._steps},
            durability=os.environ.get("UNGOVERNED_DURABILITY", "sync"),
        )
        answer = self.create_text_output_item(done["messages"][-1].text, uuid.uuid4().hex)
        tools = [m.name for m in done["messages"] if isinstance(m, ToolMessage)]
        return ResponsesAgentResponse(output=[answer], custom_outputs={"tools": tools})


if os.environ.get("UNGOVERNED_TRACING", "true") == "true":
    mlflow.langchain.autolog()
set_model(Ungoverned())
