"""What lists of a registry hold, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from mlflow_agent_plugin.registry.facts import Measure

T = TypeVar("T")

PAGE = 50
MAX_PAGE = 200


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list.

    Attributes:
        rows: What is on it.
        offset: How many came before.
        more: Whether there are further ones.
    """

    rows: Sequence[T]
    offset: int = 0
    more: bool = False


@dataclass(frozen=True)
class AgentSummary:
    """A gated model.

    Attributes:
        name: Registered model.
        slots: Protected slot to the version it points to, None for nothing.
        latest: Highest version number.
        open_requests: Promotion requests that wait for an answer.
        emergencies: Slots whose version was put there past the gate.
    """

    name: str
    slots: Mapping[str, int | None]
    latest: int | None
    open_requests: int
    emergencies: frozenset[str] = frozenset()


@dataclass(frozen=True)
class VersionSummary:
    """An agent version as it was registered."""

    name: str
    version: int
    agent: str
    agent_digest: str
    content_digest: str
    author: str
    author_verified: bool
    created_at: datetime


@dataclass(frozen=True)
class RequestSummary:
    """A promotion request.

    Attributes:
        state: open, executed, rejected, withdrawn, superseded or expired.
        approvals: Who approved, in order; whether it still counts the gate report says.
        applies: The approval that completes it moves the slot.
    """

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
    approvals: tuple[str, ...] = ()
    applies: bool = False


@dataclass(frozen=True)
class HistorySummary:
    """One change of what a slot points to.

    Attributes:
        kind: promoted, rolled_back, emergency, retired …
        version: None for nothing.
    """

    at: datetime
    slot: str
    kind: str
    version: int | None
    actor: str
    verified: bool
    reason: str


@dataclass(frozen=True)
class SuiteComparison:
    """One metric of the candidate beside the incumbent's on the same suite.

    Attributes:
        is_rate: The metric is a share of the cases.
        candidate: None if there is no usable evidence.
        incumbent: Likewise; also None if the candidate is the incumbent.
    """

    suite: str
    metric: str
    is_rate: bool
    candidate: Measure | None
    incumbent: Measure | None
