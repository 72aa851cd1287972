"""What a suite says: its file format, the checked suite, its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from mlflow_agent_plugin.development.scenario import ActorSpec, Scenario, Tag
from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package import (
    API_VERSION,
    StrictModel,
    YamlDocument,
)
from mlflow_agent_plugin.package.manifest import BundlePath, Name

SUITE_FILE = "suite.yaml"
DEFAULT_NOW = datetime(2026, 1, 15, 12, 0, tzinfo=timezone.utc)
"""The time it is in every scenario unless the suite says otherwise: results do not depend on when
they were made."""


class Defaults(StrictModel):
    """What scenarios of a suite file have in common."""

    actor: ActorSpec | None = None
    world: dict[str, Any] = Field(default_factory=dict)
    max_turns: int | None = Field(default=None, ge=1, le=200)
    max_seconds: float | None = Field(default=None, gt=0, le=3600)
    tags: list[Tag] | None = None


class SuiteFile(StrictModel):
    """A suite file.

    Attributes:
        name: Name of the suite, as metrics, evidence and gate rules call it.
        description: What it measures.
        agent: Name of the agent it is for; None: any.
        now: The time it is in every scenario.
        environment: What policies see as ``context.session.environment``.
        reference: Its requests look like normal traffic, so that drift is measured against them.
        defaults: What its scenarios have in common.
        files: More files of scenarios.
        scenarios: Scenarios.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    name: Name
    description: str | None = None
    agent: Name | None = None
    now: AwareDatetime = DEFAULT_NOW
    environment: Name = "production"
    reference: bool = True
    defaults: Defaults = Defaults()
    files: list[BundlePath] = Field(default_factory=list)
    scenarios: list[Scenario] = Field(default_factory=list)


class ScenarioFile(StrictModel):
    """A YAML file of scenarios that a suite file names."""

    scenarios: list[Scenario] = Field(min_length=1)


@dataclass(frozen=True)
class Origin:
    """Where a scenario was read."""

    document: YamlDocument
    location: tuple[str | int, ...]

    def where(self, *field_location: str | int) -> str:
        """Return file, line and field."""
        return self.document.where(*self.location, *field_location)


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Attributes:
        name: Name of the suite.
        scenarios: Its scenarios, sorted by id.
        source: The file or folder it was read from, None if made in memory.
        description: What it measures.
        agent: Name of the agent it is for; None: any.
        now: The time it is in every scenario, UTC.
        environment: What policies see as ``context.session.environment``.
        reference: Its requests look like normal traffic.
    """

    name: str
    scenarios: tuple[Scenario, ...]
    source: Path | None = None
    description: str | None = None
    agent: str | None = None
    now: datetime = DEFAULT_NOW
    environment: str = "production"
    reference: bool = True
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.scenarios:
            raise SuiteError(
                "the suite has no scenarios", where=str(self.source or self.name), hint="Add some."
            )
        ordered = tuple(sorted(self.scenarios, key=lambda scenario: scenario.id))
        object.__setattr__(self, "scenarios", ordered)

    def __len__(self) -> int:
        return len(self.scenarios)

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of what the suite says.

        Raises:
            SuiteError: A scenario holds a value that cannot be spelled exactly in JSON.
        """
        try:
            return sha256_of_json(self.to_dict())
        except ValueError as error:
            raise SuiteError(str(error), where=str(self.source or self.name)) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the suite as JSON values, with everything its digest covers."""
        return {
            "apiVersion": API_VERSION,
            "name": self.name,
            "agent": self.agent,
            "now": self.now.astimezone(timezone.utc).isoformat(),
            "environment": self.environment,
            "scenarios": lines_of(self.scenarios),
        }

    def where(self, case_id: str, *field_location: str | int) -> str:
        """Return file, line and field of a scenario, or its id if it was made in memory."""
        origin = self.origins.get(case_id)
        return f"scenario {case_id}" if origin is None else origin.where(*field_location)

    def sample(self, limit: int, *, seed: int = 0) -> Suite:
        """Return a suite of `limit` scenarios drawn by `seed`; it has a digest of its own.

        Raises:
            SuiteError: `limit` is not positive.
        """
        if limit < 1:
            raise SuiteError(f"limit must be at least 1, not {limit}", where=self.name)
        drawn = sorted(
            self.scenarios,
            key=lambda scenario: hashlib.sha256(f"{seed}:{scenario.id}".encode()).digest(),
        )
        return replace(self, scenarios=tuple(drawn[:limit]))


def lines_of(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    """Return scenarios as JSON values, without what they leave to the defaults."""
    return [scenario.model_dump(mode="json", exclude_unset=True) for scenario in scenarios]
