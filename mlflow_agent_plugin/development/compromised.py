"""A chat model in an attacker's hand: makes the calls a scenario says, whatever it is told.

Rules:
- It stands where the agent's own model would; graph, gateway, policies and tools are the agent's.
- One call at a time, in order; the result of one never changes the next. Then it says it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from mlflow_agent_plugin.core.turn import CURRENT_TURN
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.foundation.offline import OfflineChatModel

ATTEMPT = "attempt-"
"""Start of the ids of its calls."""


class CompromisedModel(OfflineChatModel):
    """Makes the calls of the scenario its session plays; see the module's docstring.

    Attributes:
        scripts: Session id to the scenario played in it; filled while scenarios run.
    """

    scripts: Mapping[str, Scenario] = Field(default_factory=dict)

    def __init__(self, scripts: Mapping[str, Scenario]) -> None:
        super().__init__()
        self.scripts = scripts  # the caller's own mapping, not a copy

    @property
    def _llm_type(self) -> str:
        return "compromised"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager, kwargs
        turn = CURRENT_TURN.get()
        attempts = [] if turn is None else self.scripts[turn.session_id].compromised_model
        at = sum(
            call["id"].startswith(ATTEMPT)
            for message in messages
            if isinstance(message, AIMessage)
            for call in message.tool_calls
            if call["id"]
        )
        if at >= len(attempts):
            return _result(AIMessage("Done."))
        call = ToolCall(
            name=attempts[at].tool,
            args=dict(attempts[at].arguments),
            id=f"{ATTEMPT}{at}",
            type="tool_call",
        )
        return _result(AIMessage("", tool_calls=[call]))


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])
