"""What the planner must remember between two calls; it travels in the messages it wrote.

The planner itself keeps nothing: any process that has the messages can go on. State of an unknown
shape (another version, another model's message) is no state: the planner starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from mlflow_agent_plugin.package.manifest import StrictModel

STATE_KEY = "local_planner"
"""Key below an AI message's ``additional_kwargs``."""

Reason = Literal["low_confidence", "tool_failure", "policy_denied"]


class Alternative(StrictModel):
    """One intent a message may have meant."""

    intent: str
    confidence: float


class Pending(StrictModel):
    """What the planner waits for.

    Attributes:
        kind: The result of a call, the value of a slot, or which intent was meant.
        name: Name of the result or slot.
        call_id: The call.
        escalation: The call hands the conversation over.
        options: The intents that were offered.
    """

    kind: Literal["call", "slot", "intent"]
    name: str = ""
    call_id: str = ""
    escalation: bool = False
    options: tuple[str, ...] = ()


class PlannerState(StrictModel):
    """The whole memory of a conversation.

    Attributes:
        turn: User messages so far.
        serial: Decisions so far, so that no two calls get the same id.
        intent: Best intent of the current task.
        confidence: Its probability.
        alternatives: The best intents of the message that started the task.
        text: The user's last message.
        request: The message that started the task.
        slots: Values found for the current task, and remembered ones.
        step: Next step of the plan.
        calls: Result name by call id, for the calls of this task.
        pending: What is waited for.
        misses: Turns in a row without understanding.
        reason: Why the conversation is being handed over.
    """

    turn: int = Field(default=0, ge=0)
    serial: int = Field(default=0, ge=0)
    intent: str = ""
    confidence: float = Field(default=0.0, ge=0, le=1)
    alternatives: tuple[Alternative, ...] = ()
    text: str = ""
    request: str = ""
    slots: dict[str, Any] = Field(default_factory=dict)
    step: int = Field(default=0, ge=0)
    calls: dict[str, str] = Field(default_factory=dict)
    pending: Pending | None = None
    misses: int = Field(default=0, ge=0)
    reason: Reason | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, without what has its default."""
        return self.model_dump(mode="json", exclude_defaults=True)


def read_state(additional_kwargs: Mapping[str, Any]) -> PlannerState | None:
    """Return the state a message carries, None if it carries none of this shape."""
    value = additional_kwargs.get(STATE_KEY)
    if not isinstance(value, Mapping):
        return None
    try:
        return PlannerState.model_validate(value)
    except ValidationError:
        return None
