"""The local planner as a LangChain chat model.

Rules:
- It keeps nothing between calls. What it must remember travels in the ``additional_kwargs`` of the
  messages it wrote, so a session goes on in any process.
- It calls tools only if it is bound to them, and only those; text it says comes from the bundle's
  prompts.
- Its token counts are words and marks (`words.count_tokens`), not those of a language model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timezone
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation.offline import OfflineChatModel
from mlflow_agent_plugin.foundation.planner.engine import PlannerEngine
from mlflow_agent_plugin.foundation.planner.moves import (
    Answer,
    Call,
    CallError,
    CallResult,
    Move,
    collect_passages,
    error_kind,
)
from mlflow_agent_plugin.foundation.planner.state import STATE_KEY, PlannerState, read_state
from mlflow_agent_plugin.foundation.planner.words import count_tokens

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.prompt import Prompt


class LocalPlanner(OfflineChatModel):
    """Plans by an intent model and a playbook instead of a language model.

    Every reply carries ``response_metadata`` with ``intent``, ``confidence``, ``alternatives``
    (list of intent and confidence, best first), ``outcome`` (value of `Outcome`, or None when what
    was done decides), ``retrieved`` (ids of the passages the answer was given) and ``model_name``.

    Attributes:
        engine: The decisions.
        prompts: The bundle's prompts by name.
        model_name: As the manifest calls the model.
        clock: What relative dates ("yesterday") count from.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: PlannerEngine = Field(exclude=True, repr=False)
    prompts: Mapping[str, Any] = Field(exclude=True, repr=False)
    model_name: str = "local-planner"
    clock: Clock = Field(default=utc_now, exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "local-planner"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager
        message = self._reply(messages, _tool_names(kwargs.get("tools")))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        del stop
        message = self._reply(messages, _tool_names(kwargs.get("tools")))
        for word in re.findall(r"\s*\S+\s*$|\s*\S+", message.text):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word, id=message.id))
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                id=message.id,
                tool_call_chunks=[
                    tool_call_chunk(
                        name=call["name"],
                        args=json.dumps(call["args"], ensure_ascii=False),
                        id=call["id"],
                        index=index,
                    )
                    for index, call in enumerate(message.tool_calls)
                ],
                additional_kwargs=message.additional_kwargs,
                response_metadata=message.response_metadata,
                usage_metadata=message.usage_metadata,
                chunk_position="last",
            )
        )

    # --- One reply ------------------------------------------------------------------------------

    def _reply(self, messages: Sequence[BaseMessage], tools: frozenset[str]) -> AIMessage:
        state, results, move = self._decide(messages)
        if isinstance(move.action, Call):
            return self._call(move, move.action, messages, tools, serial=state.serial + 1)
        return self._answer(move, move.action, messages, results, serial=state.serial + 1)

    def _decide(self, messages: Sequence[BaseMessage]) -> tuple[PlannerState, dict[str, Any], Move]:
        spoken = [
            message for message in messages if isinstance(message, HumanMessage | ToolMessage)
        ]
        if not spoken:
            raise PlannerError(
                "there is no message to answer", hint="Send at least one user message."
            )
        state = _last_state(messages)
        outputs = {item.call_id: item for item in map(_read_result, messages) if item is not None}
        if isinstance(spoken[-1], HumanMessage):
            if state is None:
                earlier = sum(isinstance(message, HumanMessage) for message in messages) - 1
                state = PlannerState(turn=earlier)
            results = _results(state, outputs)
            today: date = self.clock().astimezone(timezone.utc).date()
            move = self.engine.hear(state, spoken[-1].text, results=results, today=today)
        else:
            state = state or PlannerState(turn=1)
            results = _results(state, outputs)
            move = self.engine.receive(state, list(outputs.values()), results=results)
        return state, results, move

    def _call(
        self,
        move: Move,
        call: Call,
        messages: Sequence[BaseMessage],
        tools: frozenset[str],
        *,
        serial: int,
    ) -> AIMessage:
        if call.tool not in tools:
            raise PlannerError(
                f"the playbook calls {call.tool!r}, but the model is not bound to it",
                hint="Bind it in the graph: context.model.bind_tools(context.tools).",
            )
        call_id = _call_id(messages, serial, call)
        state = self.engine.sent(move, call_id).model_copy(update={"serial": serial})
        tool_call = ToolCall(
            name=call.tool, args=dict(call.arguments), id=call_id, type="tool_call"
        )
        return self._message(state, messages, tool_calls=[tool_call])

    def _answer(
        self,
        move: Move,
        answer: Answer,
        messages: Sequence[BaseMessage],
        results: Mapping[str, Any],
        *,
        serial: int,
    ) -> AIMessage:
        prompt: Prompt = self.prompts[answer.prompt]
        text = prompt.render(**answer.variables).strip()
        state = move.state.model_copy(update={"serial": serial})
        outcome = None if answer.outcome is None else answer.outcome.value
        kept = {name: results[name] for name in state.calls.values() if name in results}
        retrieved = [
            str(passage["chunk_id"])
            for passage in collect_passages(kept)
            if isinstance(passage, Mapping) and "chunk_id" in passage
        ]
        return self._message(state, messages, text=text, outcome=outcome, retrieved=retrieved)

    def _message(
        self,
        state: PlannerState,
        messages: Sequence[BaseMessage],
        *,
        text: str = "",
        tool_calls: Sequence[ToolCall] = (),
        outcome: str | None = None,
        retrieved: Sequence[str] = (),
    ) -> AIMessage:
        heard = sum(_count(message) for message in messages)
        said = count_tokens(text) + sum(_count_call(call) for call in tool_calls)
        return AIMessage(
            content=text,
            tool_calls=list(tool_calls),
            additional_kwargs={STATE_KEY: state.to_json()},
            response_metadata={
                "intent": state.intent or None,
                "confidence": round(state.confidence, 6),
                "alternatives": [
                    {"intent": item.intent, "confidence": round(item.confidence, 6)}
                    for item in state.alternatives
                ],
                "outcome": outcome,
                "retrieved": list(retrieved),
                "model_name": self.model_name,
            },
            usage_metadata=UsageMetadata(
                input_tokens=heard, output_tokens=said, total_tokens=heard + said
            ),
        )


def _tool_names(tools: Any) -> frozenset[str]:
    return frozenset(str(tool["function"]["name"]) for tool in tools or ())


def _last_state(messages: Sequence[BaseMessage]) -> PlannerState | None:
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return read_state(message.additional_kwargs)
    return None


def _read_result(message: BaseMessage) -> CallResult | None:
    """Return what a tool message says became of its call, None for any other message."""
    if not isinstance(message, ToolMessage):
        return None
    try:
        value = json.loads(message.text)
    except ValueError:
        value = message.text
    if message.status != "error":
        return CallResult(message.tool_call_id, output=value)
    details = value.get("error") if isinstance(value, Mapping) else None
    if not isinstance(details, Mapping):
        details = {"message": message.text}
    error = CallError(
        error_kind(details.get("kind")), str(details.get("message", "")), message.name or ""
    )
    return CallResult(message.tool_call_id, error=error)


def _results(state: PlannerState, outputs: Mapping[str, CallResult]) -> dict[str, Any]:
    """Return the outputs of the current task by result name, later calls over earlier ones."""
    return {
        name: outputs[call_id].output
        for call_id, name in state.calls.items()
        if call_id in outputs and outputs[call_id].error is None
    }


def _call_id(messages: Sequence[BaseMessage], serial: int, call: Call) -> str:
    """Return an id that is unique in the session and the same when the same reply is made again.

    A worker that crashed before its reply was stored makes the same call again under the same id,
    so that the effect ledger recognises it.
    """
    last = messages[-1]
    parts = [str(last.id), last.text, str(serial), call.tool]
    parts.append(json.dumps(call.arguments, sort_keys=True, default=str))
    return "call_" + hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:24]


def _count(message: BaseMessage) -> int:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return count_tokens(message.text) + sum(_count_call(call) for call in calls)


def _count_call(call: ToolCall) -> int:
    return count_tokens(call["name"]) + count_tokens(json.dumps(call["args"], ensure_ascii=False))
