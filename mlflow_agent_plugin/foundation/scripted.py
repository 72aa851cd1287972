"""A chat model that replays replies from the manifest, for tests and documentation.

Rules:
- The reply is chosen by how many replies the conversation has already had, so a paused session
  resumes at the right place in any process.
- ``settings.replies`` serves every conversation; ``settings.scripts`` chooses by a regular
  expression on the first user message.
- A script that has run out is an error, never an empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, ValidationError, model_validator

from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation.offline import OfflineChatModel
from mlflow_agent_plugin.foundation.planner.words import count_tokens
from mlflow_agent_plugin.package.manifest import ModelSpec, Name, StrictModel


class ScriptedCall(StrictModel):
    """A tool call of a scripted reply."""

    name: Name
    args: dict[str, Any] = Field(default_factory=dict)
    id: str | None = None


class ScriptedReply(StrictModel):
    """One reply; `intent`, `confidence` and `outcome` go into its ``response_metadata``."""

    text: str = ""
    tool_calls: list[ScriptedCall] = Field(default_factory=list)
    intent: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    outcome: Outcome | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ScriptedReply:
        if not self.text and not self.tool_calls:
            raise ValueError("needs text or tool_calls")
        return self


class Script(StrictModel):
    """Replies for conversations whose first user message matches `when`."""

    when: str
    replies: list[ScriptedReply] = Field(min_length=1)

    @model_validator(mode="after")
    def _when_is_a_pattern(self) -> Script:
        try:
            re.compile(self.when)
        except re.error as error:
            raise ValueError(f"when is not a regular expression: {error}") from error
        return self


class ScriptedSettings(StrictModel):
    """What ``model.settings`` may hold for provider ``scripted``."""

    replies: list[ScriptedReply] = Field(default_factory=list)
    scripts: list[Script] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_replies(self) -> ScriptedSettings:
        if not self.replies and not self.scripts:
            raise ValueError("needs replies or scripts")
        return self


class ScriptedChatModel(OfflineChatModel):
    """Replays replies; see the module's docstring."""

    script: ScriptedSettings
    model_name: str = "scripted"

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager, kwargs
        position = sum(isinstance(message, AIMessage) for message in messages)
        replies = self._replies(messages)
        if position >= len(replies):
            raise ConfigError(
                f"the script has {len(replies)} replies, the conversation needs more",
                hint="Add replies under model.settings.",
            )
        reply = replies[position]
        calls = [
            ToolCall(
                name=call.name,
                args=call.args,
                id=call.id or f"call_{position}_{index}",
                type="tool_call",
            )
            for index, call in enumerate(reply.tool_calls)
        ]
        heard = sum(count_tokens(message.text) for message in messages)
        said = count_tokens(reply.text)
        message = AIMessage(
            content=reply.text,
            tool_calls=calls,
            response_metadata={
                "intent": reply.intent,
                "confidence": reply.confidence,
                "outcome": None if reply.outcome is None else reply.outcome.value,
                "model_name": self.model_name,
            },
            usage_metadata=UsageMetadata(
                input_tokens=heard, output_tokens=said, total_tokens=heard + said
            ),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _replies(self, messages: Sequence[BaseMessage]) -> Sequence[ScriptedReply]:
        first = next((m.text for m in messages if isinstance(m, HumanMessage)), "")
        for script in self.script.scripts:
            if re.search(script.when, first):
                return script.replies
        return self.script.replies


def build_scripted(spec: ModelSpec, *, where: str) -> ScriptedChatModel:
    """Build the scripted model of `spec`.

    Raises:
        ConfigError: The settings hold no valid replies.
    """
    try:
        settings = ScriptedSettings.model_validate(spec.settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        raise ConfigError(
            first["msg"].removeprefix("Value error, "),
            where=f"{where}{field}",
            hint="See docs/how-to/use-an-llm-provider.md.",
        ) from error
    return ScriptedChatModel(script=settings, model_name=spec.name)
