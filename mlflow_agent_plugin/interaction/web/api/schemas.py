"""What the API takes and gives, as its OpenAPI document says it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*\S[^\x00]*$")]
SlotName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="A stage (Production, Staging) or an alias written @name.",
        examples=["Production", "@champion"],
    ),
]


class Strict(BaseModel):
    """A body with no fields but its own."""

    model_config = ConfigDict(extra="forbid")


class Me(BaseModel):
    """Who is asking."""

    user: str
    tenant: str
    roles: list[str]
    verified: bool


class Problem(BaseModel):
    """Why something was not done; what MLflow's own API gives too."""

    error_code: str
    message: str


class Listed(BaseModel, Generic[T]):
    """One page of a list."""

    rows: list[T]
    offset: int
    more: bool = Field(description="Whether there are further ones.")


class Agent(BaseModel):
    """A gated model."""

    name: str
    slots: dict[str, int | None] = Field(description="Protected slot to version.")
    latest: int | None
    open_requests: int


class Version(BaseModel):
    """An agent version."""

    name: str
    version: int
    agent: str
    agent_digest: str
    content_digest: str
    author: str
    author_verified: bool
    created_at: datetime


class PromotionRequest(BaseModel):
    """A promotion request."""

    request_id: str
    name: str
    version: int
    slot: str
    state: str
    requested_by: str
    verified: bool
    comment: str
    created_at: datetime
    closed_by: str | None
    reason: str
    approvals: list[str]
    applies: bool = Field(description="The approval that completes it moves the slot.")


class Agree(Strict):
    """Say yes to a promotion."""

    to: SlotName
    comment: Text = ""


class Ask(Agree):
    """Ask for a promotion."""

    apply: bool = Field(
        default=True,
        description="The approval that completes the request moves the slot; else it waits until "
        "somebody promotes.",
    )


class Refuse(Strict):
    """Say no to a promotion, or take a request back."""

    to: SlotName
    reason: Reason


class Promote(Strict):
    """Point a slot to a version."""

    to: SlotName


class RollBack(Strict):
    """Point a slot back."""

    to: SlotName
    reason: Reason
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class Answer(Strict):
    """Answer a tool call that waits."""

    reason: Text = ""


class Edit(Strict):
    """Say yes to a tool call with other arguments."""

    arguments: dict[str, Any]
    reason: Reason


class ToolCall(BaseModel):
    """A tool call that waits for a person, or was answered."""

    model_config = ConfigDict(extra="allow")

    approval_id: str
    tool: str
    arguments: dict[str, Any]
    agent: str
    tenant: str
    requested_by: str
    role: str
    reason: str
    state: str
    created_at: datetime
    expires_at: datetime


class Done(BaseModel):
    """What was done."""

    result: str


class Approved(Done):
    """What an approval did."""

    applied: bool = Field(description="Whether it moved the slot.")
    why: str = Field(description="What happened, or why the slot was not moved.")


class Event(BaseModel):
    """One event of the audit."""

    event_id: str
    ts: str
    kind: str
    request_id: str | None
    session_id: str | None
    tenant: str | None
    actor: str | None
    agent: str | None
    agent_digest: str | None
    body: dict[str, Any]
    hash: str
    position: int


class Events(BaseModel):
    """A page of the audit, the newest first."""

    rows: list[Event]
    older: int | None = Field(description="Give it as `before` to go on; null at the end.")
