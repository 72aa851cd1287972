"""Puts a meter on a chat model: no call without a reservation, none that is not settled.

Rules:
- The meter is attached to the model itself: no graph can leave it out by its own configuration.
- Before a call its tokens are estimated: the messages and tools as they are, and the longest answer
  the model may give (its ``max_tokens``, else `DEFAULT_OUTPUT_TOKENS`).
- Afterwards the provider's own count holds; a provider that does not count is estimated.
- A call that failed took nothing, but one that ran out of time may have taken all it reserved.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages.utils import count_tokens_approximately

from mlflow_agent_plugin.foundation.usage import ModelMeter, ModelUsage
from mlflow_agent_plugin.package.manifest import ModelSpec

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

DEFAULT_OUTPUT_TOKENS = 1000
_CHARS_PER_TOKEN = 4
_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def put_on(model: BaseChatModel, spec: ModelSpec, meter: ModelMeter) -> BaseChatModel:
    """Attach `meter` to `model` and return the model."""
    handlers = model.callbacks if isinstance(model.callbacks, list) else []
    model.callbacks = [*handlers, MeterHandler(spec, meter)]
    return model


class MeterHandler(BaseCallbackHandler):
    """Asks and tells the meter of one model."""

    raise_error = True
    run_inline = True

    def __init__(self, spec: ModelSpec, meter: ModelMeter) -> None:
        self._spec = spec
        self._meter = meter
        self._lock = threading.Lock()
        self._open: dict[UUID, tuple[Any, ModelUsage]] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Reserve, or refuse the call by raising."""
        del serialized
        parameters = kwargs.get("invocation_params") or {}
        estimate = ModelUsage(
            input_tokens=sum(count_tokens_approximately(part) for part in messages)
            + _size(parameters.get("tools")),
            output_tokens=_longest(parameters, self._spec.settings) * max(1, len(messages)),
        )
        reserved = self._meter.begin(self._spec, estimate)
        with self._lock:
            self._open[run_id] = (reserved, estimate)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle to what the call took."""
        del kwargs
        found = self._take(run_id)
        if found is not None:
            reserved, estimate = found
            self._meter.end(self._spec, reserved, _used(response, estimate))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give the reservation back, unless the provider may have done the work."""
        del kwargs
        found = self._take(run_id)
        if found is not None:
            reserved, estimate = found
            timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
            self._meter.end(self._spec, reserved, estimate if timed_out else ModelUsage())

    def _take(self, run_id: UUID) -> tuple[Any, ModelUsage] | None:
        with self._lock:
            return self._open.pop(run_id, None)


def _longest(parameters: Any, settings: Any) -> int:
    for source in (parameters, settings):
        for name in _MAX_TOKENS:
            value = source.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return DEFAULT_OUTPUT_TOKENS


def _size(value: Any) -> int:
    if not value:
        return 0
    return len(json.dumps(value, default=str)) // _CHARS_PER_TOKEN


def _used(response: LLMResult, estimate: ModelUsage) -> ModelUsage:
    messages = [
        message
        for generations in response.generations
        for generation in generations
        if (message := getattr(generation, "message", None)) is not None
    ]
    counted = [usage for m in messages if (usage := getattr(m, "usage_metadata", None))]
    if counted:
        return ModelUsage(
            input_tokens=sum(usage["input_tokens"] for usage in counted),
            output_tokens=sum(usage["output_tokens"] for usage in counted),
        )
    return ModelUsage(
        input_tokens=estimate.input_tokens, output_tokens=count_tokens_approximately(messages)
    )
