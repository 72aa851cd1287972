"""What goes to the process that runs a version on trial, and what comes back.

Rules:
- Both are JSON, never pickles: what comes back was made beside code nobody has reviewed yet. It is
  read by these strict models, bounded, and shown as text.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_MESSAGE_CHARS = 4000
MAX_ANSWER_BYTES = 2 * 1024**2
MAX_TURNS = 50

Line = Annotated[str, Field(max_length=500)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Said(_Strict):
    """One message to the version on trial, or an answer to a call that waits.

    Attributes:
        text: What the user says; empty to go on after an answer.
        user: Who he is to be.
        roles: The roles he is to have.
        verified: Whether he is to have logged in.
        approval_id: The call that is answered, None for a message.
        yes: The answer.
    """

    text: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)] = ""
    user: Annotated[str, Field(min_length=1, max_length=100)] = "somebody"
    roles: Annotated[tuple[Line, ...], Field(max_length=20)] = ()
    verified: bool = True
    approval_id: Line | None = None
    yes: bool = False


class Call(_Strict):
    """One tool call of a turn, as the gateway saw it."""

    tool: Line
    arguments: dict[str, Any]
    status: Line
    decision: Line
    policy_ids: list[Line]
    output: Any = None
    error: str | None = None


class Question(_Strict):
    """A call that waits for a person."""

    approval_id: Line
    tool: Line
    arguments: dict[str, Any]
    role: Line
    reason: str


class Step(_Strict):
    """One span of the turn's trace.

    Attributes:
        depth: How deep it lies below the request's own span.
        starts: Seconds after the request began.
    """

    name: Line
    kind: Line
    depth: Annotated[int, Field(ge=0, le=50)]
    starts: float
    seconds: float
    status: Line
    facts: dict[str, Any]


class Turn(_Strict):
    """What was said and what came of it.

    Attributes:
        problem: Why there is no answer; None if there is one.
    """

    said: Said
    text: str = ""
    outcome: Line = ""
    intent: Line | None = None
    confidence: float | None = None
    calls: Annotated[list[Call], Field(max_length=200)] = []
    questions: Annotated[list[Question], Field(max_length=50)] = []
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    steps: Annotated[list[Step], Field(max_length=500)] = []
    problem: str | None = None
