"""The incident triage agent's graph: LangChain's own agent loop, with three things added.

::

    START -> model -> (tool calls?) -> tools, all calls of one message at once -> model ...
                   -> (an answer)   -> END

Rules:
- The model sees the last `memory.window_turns` turns, always whole ones; the session keeps all of
  them, so that what was untrusted stays untrusted.
- A service is not touched unseen: a restart or rollback of a service nothing was looked up about
  goes back to the model once, and is dropped the second time.
- The tool gateway is the last middleware: nothing behind it can change a call that was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelRequest,
    ModelResponse,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from mlflow_agent_plugin.core import GraphContext

LOOKS = frozenset({"list_alerts", "get_service", "search_logs", "list_deploys"})
TOUCHES = frozenset({"restart_service", "rollback_deploy"})


def build(context: GraphContext) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the graph.

    Args:
        context: Model, tools, prompts and manifest; ``graph.settings.max_model_calls`` says how
            often the model may be asked within one turn.
    """
    memory = context.manifest.memory
    workflow = context.manifest.workflow
    return create_agent(
        context.model,
        list(context.tools),
        system_prompt=context.prompts["system"].render(
            goal=workflow.goal, criteria=workflow.acceptance_criteria
        ),
        middleware=[
            ModelCallLimitMiddleware(run_limit=int(context.settings.get("max_model_calls", 12))),
            TurnWindow(memory.window_turns if memory.strategy == "window" else 1),
            LookBeforeTouching(context.prompts["look_first"].render),
            context.middleware(),
        ],
        checkpointer=context.checkpointer,
        name="incident_triage",
    )


class TurnWindow(AgentMiddleware[Any, Any]):
    """Shows the model the last turns only.

    Args:
        turns: How many.
    """

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """Ask the model about the last turns."""
        return handler(request.override(messages=last_turns(request.messages, self.turns)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """As `wrap_model_call`."""
        return await handler(request.override(messages=last_turns(request.messages, self.turns)))


class LookBeforeTouching(AgentMiddleware[Any, Any]):
    """Sends a plan back that would touch a service nothing is known about.

    The remark is shown to the model only. It never becomes part of the session, where it would pass
    for something the user said.

    Args:
        remark: Renders the remark for the names of the services.
    """

    def __init__(self, remark: Callable[..., str]) -> None:
        super().__init__()
        self.remark = remark

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """Ask again once if the answer touches a service unseen."""
        response = handler(request)
        unseen = self._unseen(request, response)
        if not unseen:
            return response
        response = handler(self._again(request, unseen))
        return self._without(response, self._unseen(request, response))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """As `wrap_model_call`."""
        response = await handler(request)
        unseen = self._unseen(request, response)
        if not unseen:
            return response
        response = await handler(self._again(request, unseen))
        return self._without(response, self._unseen(request, response))

    def _again(self, request: ModelRequest[Any], unseen: Sequence[str]) -> ModelRequest[Any]:
        remark = HumanMessage(content=self.remark(services=list(unseen)))
        return request.override(messages=[*request.messages, remark])

    @staticmethod
    def _unseen(request: ModelRequest[Any], response: ModelResponse[Any]) -> list[str]:
        seen = services_looked_up(request.state["messages"])
        return sorted(
            {
                str(call["args"].get("service"))
                for message in response.result
                if isinstance(message, AIMessage)
                for call in message.tool_calls
                if call["name"] in TOUCHES and str(call["args"].get("service")) not in seen
            }
        )

    @staticmethod
    def _without(response: ModelResponse[Any], unseen: Sequence[str]) -> Any:
        if not unseen:
            return response
        names = ", ".join(unseen)
        refusal = AIMessage(
            content=f"I will not act on {names} before looking at it. Which evidence should I use?",
            response_metadata={"outcome": "clarified"},
        )
        return ModelResponse(result=[refusal])


def last_turns(messages: Sequence[BaseMessage], turns: int) -> list[Any]:
    """Return the messages of the last `turns` turns; a turn begins with what the user says."""
    starts = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return list(messages[starts[-turns] :] if len(starts) > turns else messages)


def services_looked_up(messages: Sequence[BaseMessage]) -> set[str]:
    """Return the services some successful read in `messages` was about."""
    answered = {
        message.tool_call_id
        for message in messages
        if isinstance(message, ToolMessage) and message.status != "error"
    }
    return {
        str(call["args"]["service"])
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
        if call["name"] in LOOKS and call["id"] in answered and call["args"].get("service")
    }
