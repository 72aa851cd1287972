"""What a rollout is, and which conversations go to its candidate. No I/O.

Rules:
- A conversation stays with the version that took its first turn, as long as the rollout is open:
  the split is by session, drawn from rollout and session alone: every front end draws alike.
- Once a rollout has stopped, everything goes to the incumbent again, conversations begun with the
  candidate too.
- ``canary``: the candidate answers its share. ``shadow``: the incumbent answers everybody; the
  candidate is asked the same for its share, its answers are thrown away and its writes do not
  happen.
- A rollout is open while it runs, or waits for the registry to promote; then it is over for good.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mlflow_agent_plugin.lifecycle.stopping import StopRules


class RolloutMode(str, Enum):
    """What the candidate gets to do."""

    CANARY = "canary"
    SHADOW = "shadow"


class RolloutState(str, Enum):
    """Where a rollout is."""

    RUNNING = "running"
    READY = "ready"
    STOPPED = "stopped"
    PROMOTED = "promoted"


class OnSuccess(str, Enum):
    """What happens to a candidate that proved as good as the incumbent."""

    PROMOTE = "promote"
    NOTHING = "nothing"


class RegistryStep(str, Enum):
    """What is still to be done in the registry."""

    NONE = ""
    PROMOTE = "promote"
    RETIRE = "retire"


class Arm(str, Enum):
    """Which version takes a conversation."""

    INCUMBENT = "incumbent"
    CANDIDATE = "candidate"


OPEN_STATES = (RolloutState.RUNNING, RolloutState.READY)


class RolloutPlan(BaseModel):
    """What somebody asks for; `StopRules` says what the last five mean.

    Attributes:
        stable_slot: Stage or alias that is served.
        candidate_slot: Stage or alias of the version that is tried.
        share: Part of the new conversations the candidate takes, or is shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stable_slot: str = "@champion"
    candidate_slot: str = "@canary"
    mode: RolloutMode = RolloutMode.CANARY
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    on_success: OnSuccess = OnSuccess.PROMOTE
    success_margin: Annotated[float, Field(gt=0, lt=1)] = StopRules.success_margin
    error_margin: Annotated[float, Field(gt=0, lt=1)] = StopRules.error_margin
    alpha: Annotated[float, Field(gt=0, lt=1)] = StopRules.alpha
    min_sessions: Annotated[int, Field(ge=1)] = StopRules.min_sessions
    max_incidents: Annotated[int, Field(ge=0)] = StopRules.max_incidents

    def rules(self) -> StopRules:
        """Return when it stops."""
        return StopRules(
            success_margin=self.success_margin,
            error_margin=self.error_margin,
            alpha=self.alpha,
            min_sessions=self.min_sessions,
            max_incidents=self.max_incidents,
        )


@dataclass(frozen=True)
class Rollout:
    """A rollout as it stands in the store.

    Attributes:
        rollout_id: Its name.
        model: Registered model.
        candidate_digest: Of the candidate's bundle: front ends serve nothing else as candidate.
        reason: Why it is in its state.
        numbers: What the stop rules have seen so far (`RolloutWatch.to_dict`).
        registry_step: What the registry still has to do.
        registry_note: How the last attempt at it went.
        started_by: Who answers for it.
    """

    rollout_id: str
    model: str
    stable_slot: str
    candidate_slot: str
    mode: RolloutMode
    share: float
    rules: StopRules
    on_success: OnSuccess
    incumbent_version: int
    candidate_version: int
    candidate_digest: str
    state: RolloutState
    reason: str
    numbers: dict[str, Any]
    registry_step: RegistryStep
    registry_note: str
    started_by: str
    started_at: datetime
    changed_at: datetime

    @property
    def is_open(self) -> bool:
        """True while sessions are split."""
        return self.state in OPEN_STATES

    def takes(self, session_id: str) -> bool:
        """Return whether a new conversation falls into the candidate's share."""
        return draw(self.rollout_id, session_id) < self.share

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        data = asdict(self)
        numbers = data.pop("numbers")
        data["sessions"] = numbers["sessions"]
        data["incidents"] = numbers["incidents"]
        for name in ("mode", "state", "on_success", "registry_step"):
            data[name] = data[name].value
        for name in ("started_at", "changed_at"):
            data[name] = data[name].isoformat(timespec="seconds")
        return data

    def summary(self) -> str:
        """Return it as one line for a log."""
        return (
            f"{self.rollout_id}: {self.mode.value} of {self.model} {self.candidate_slot} version "
            f"{self.candidate_version} beside version {self.incumbent_version}, "
            f"{self.state.value}: {self.reason}"
        )


def draw(rollout_id: str, session_id: str) -> float:
    """Return a number in [0, 1) that depends on rollout and session only."""
    digest = hashlib.sha256(f"{rollout_id}\n{session_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
