"""A load profile: how many users or requests, for how long, and what they say.

Rules:
- A stage is closed (`users`, each waiting for its answer before it goes on) or open (`rate`,
  requests that come whether or not the ones before are answered).
- `ramp_seconds` leads from the level before to this one; nothing is claimed about that time. What
  is measured is the steady part, `seconds`.
- Which message is sent when follows from `seed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document
from mlflow_agent_plugin.package.manifest import Name
from mlflow_agent_plugin.trust.evidence import LoadStage

MAX_TEXTS = 10_000


class StageSpec(StrictModel):
    """One stage.

    Attributes:
        users: Closed model: users at once.
        rate: Open model: requests a second.
        seconds: How long the level is held.
        ramp_seconds: How long it takes to get there.
    """

    users: int | None = Field(default=None, ge=1, le=10_000)
    rate: float | None = Field(default=None, gt=0, le=10_000)
    seconds: float = Field(gt=0, le=86_400)
    ramp_seconds: float = Field(default=0.0, ge=0, le=3_600)

    @model_validator(mode="after")
    def _is_one_model(self) -> StageSpec:
        if (self.users is None) == (self.rate is None):
            raise ValueError("needs either users (closed) or rate (open)")
        return self


class LoadProfile(StrictModel):
    """A load profile.

    Attributes:
        name: Its name, as metrics and evidence call it.
        stages: Stages in order.
        messages: What users say; each request opens a conversation with one of them.
        think_seconds: Closed model: pause between an answer and the next message.
        timeout_seconds: How long a request may take, waits for rate limits included.
        attempts: How often a request is sent at most, when it is answered with 429.
        max_in_flight: Open model: requests at once; what comes on top waits, and its time runs.
        seed: Seed of messages and arrivals.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    name: Name
    stages: list[StageSpec] = Field(min_length=1, max_length=50)
    messages: list[str] = Field(min_length=1, max_length=MAX_TEXTS)
    think_seconds: float = Field(default=0.0, ge=0, le=600)
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    attempts: int = Field(default=3, ge=1, le=20)
    max_in_flight: int = Field(default=500, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @property
    def digest(self) -> str:
        """``sha256:…`` of what the profile says."""
        return sha256_of_json(self.model_dump(mode="json", by_alias=True))

    def phases(self) -> list[Phase]:
        """Return the stages as phases, ramps apart from what is held."""
        return list(_phases(self.stages))


@dataclass(frozen=True)
class Phase:
    """A stretch of time with one rule for the load.

    Attributes:
        number: Its number; what the requests table calls the stage.
        steady: The level is held, not approached.
        start: Users or rate at its start.
        end: At its end.
        seconds: How long it lasts.
        open_model: Requests come at a rate.
    """

    number: int
    steady: bool
    start: float
    end: float
    seconds: float
    open_model: bool

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return dict(vars(self))

    def stage(self) -> LoadStage:
        """Return the stage as evidence describes it."""
        return LoadStage(
            stage=self.number,
            model="open" if self.open_model else "closed",
            users=None if self.open_model else int(self.end),
            rate=self.end if self.open_model else None,
            seconds=self.seconds,
        )


def _phases(stages: list[StageSpec]) -> Iterator[Phase]:
    number = 0
    before: tuple[bool, float] = (False, 0.0)
    for stage in stages:
        open_model = stage.rate is not None
        level = float(stage.users or stage.rate or 0)
        if stage.ramp_seconds:
            start = before[1] if before[0] == open_model else 0.0
            yield Phase(number, False, start, level, stage.ramp_seconds, open_model)  # noqa: FBT003
            number += 1
        yield Phase(number, True, level, level, stage.seconds, open_model)  # noqa: FBT003
        number += 1
        before = (open_model, level)


def load_profile(path: str | Path) -> LoadProfile:
    """Read a profile from a YAML file.

    Raises:
        SuiteError: It is missing, empty or malformed; with file, line and field.
    """
    source = Path(path)
    if not source.is_file():
        raise SuiteError("there is no load profile", where=str(source), hint="Give a .yaml file.")
    return validate_document(read_yaml(source, error=SuiteError), LoadProfile, error=SuiteError)
