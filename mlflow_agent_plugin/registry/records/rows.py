"""What the registry's rows hold, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow_agent_plugin.registry.facts import PolicyTestsFact
from mlflow_agent_plugin.registry.rules import GateRules


@dataclass(frozen=True)
class Gate:
    """The gate of one registered model."""

    name: str
    epoch: int
    rules: GateRules
    revision: int


@dataclass(frozen=True)
class VersionRecord:
    """What the registry knows about one agent version; `contracts` is JSON text by tool name."""

    name: str
    epoch: int
    version: int
    content_digest: str
    agent_digest: str
    agent: str
    author: str
    author_verified: bool
    created_at: datetime
    rules: GateRules | None
    contracts: str
    policy_tests: PolicyTestsFact


@dataclass(frozen=True)
class EvidenceRecord:
    """One piece of evidence as it was submitted.

    Attributes:
        suite: Suite; or ``load:`` and the profile, ``drift:`` and the window of traffic.
        packed: Its table, compressed.
        recorded_at: When it was recorded, None before.
        recorded_by: By whom, likewise.
        revoked: Who revoked the run's evidence and why, None if nobody did.
    """

    evidence_id: str
    agent_digest: str
    suite: str
    suite_digest: str
    results_digest: str
    run_id: str
    evaluated_at: datetime
    envelope: Mapping[str, Any]
    packed: bytes
    recorded_at: datetime | None = None
    recorded_by: str = ""
    revoked: str | None = None


@dataclass(frozen=True)
class RequestRecord:
    """One promotion request; `applies`: the approval that completes it moves the slot."""

    request_id: str
    version: int
    slot: str
    number: int
    state: str
    requested_by: str
    comment: str
    reason: str
    applies: bool = False


@dataclass(frozen=True)
class AnswerRecord:
    """One approval: who said yes to which subject (see `gathering.subject_of`)."""

    user: str
    verified: bool
    roles: frozenset[str]
    subject: str
    at: datetime


@dataclass(frozen=True)
class CommentRecord:
    """What one person said about a request."""

    user: str
    verified: bool
    comment: str
    at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**vars(self), "at": self.at.isoformat()}


@dataclass(frozen=True)
class HistoryEntry:
    """One change of what a slot points to.

    Attributes:
        kind: adopted, promoted, rolled_back, emergency, left or retired.
        version: What it points to since then; None for nothing.
    """

    slot: str
    number: int
    epoch: int
    kind: str
    version: int | None
    content_digest: str | None
    agent_digest: str | None
    actor: str
    verified: bool
    reason: str
    at: datetime
    report: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the report."""
        return {
            "slot": self.slot,
            "number": self.number,
            "kind": self.kind,
            "version": self.version,
            "content_digest": self.content_digest,
            "agent_digest": self.agent_digest,
            "actor": self.actor,
            "verified": self.verified,
            "reason": self.reason,
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HistoryEntry:
        """Read what `to_dict` wrote."""
        values = dict(data)
        at = datetime.fromisoformat(values.pop("at"))
        return cls(epoch=0, at=at, **values)
