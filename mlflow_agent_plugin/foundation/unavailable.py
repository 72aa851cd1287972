"""A chat model whose provider's key is missing; it serves only to check that a graph builds."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import ConfigDict, Field

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation.offline import OfflineChatModel


class UnavailableChatModel(OfflineChatModel):
    """Can be bound to tools, and raises `problem` when called."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    problem: ConfigError = Field(exclude=True)

    @property
    def _llm_type(self) -> str:
        return "unavailable"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del messages, stop, run_manager, kwargs
        raise self.problem
