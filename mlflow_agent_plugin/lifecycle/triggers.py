"""When to retrain: rules over signals, without any I/O.

Rules of deciding:
- A policy fires when at least one of its rules is met and its cool-down is over.
- A rule whose signal is missing is *unknown*: it neither fires nor counts as "all is well", and the
  decision lists it.
- A metric counts as beyond its bound only when its 95 % interval lies beyond, in each of the last
  `windows` windows (`sure: false` takes the plain value).
- Every decision keeps the reason of every rule, also of those that were not met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.observability.drift.verdict import DriftVerdict
from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentVerdict,
    PartKind,
    PartStatus,
)
from mlflow_agent_plugin.observability.metrics import METRIC_NAMES, TaskMetric
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document
from mlflow_agent_plugin.package.manifest import Name


class RuleStatus(str, Enum):
    """What a rule says about the signals."""

    MET = "met"
    UNMET = "unmet"
    UNKNOWN = "unknown"


class DriftRule(StrictModel):
    """Met when the newest drift verdict is confirmed, if given, on one of `columns`."""

    name: Name
    when: Literal["drift_confirmed"]
    columns: list[Name] = Field(default_factory=list, description="Empty: any column")


class BlindRule(StrictModel):
    """Met when the last `windows` drift verdicts were unknown: monitoring itself needs a look."""

    name: Name
    when: Literal["drift_unknown"]
    windows: int = Field(default=3, ge=1, le=1000)


class MetricRule(StrictModel):
    """Met when a traffic metric was beyond its bound in each of the last `windows` windows."""

    name: Name
    when: Literal["metric"]
    metric: str = Field(description="A name of observability.metrics.METRIC_NAMES")
    above: float | None = None
    below: float | None = None
    windows: int = Field(default=2, ge=1, le=1000)
    sure: bool = Field(default=True, description="The whole interval must be beyond the bound")

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str) -> str:
        if metric not in METRIC_NAMES:
            raise ValueError(f"must be one of {', '.join(METRIC_NAMES)}")
        return metric

    @model_validator(mode="after")
    def _has_one_bound(self) -> MetricRule:
        if (self.above is None) == (self.below is None):
            raise ValueError("needs either above or below")
        return self


class LabelsRule(StrictModel):
    """Met when enough labels came in since the version in service was trained."""

    name: Name
    when: Literal["new_labels"]
    at_least: int = Field(ge=1)


class AgeRule(StrictModel):
    """Met when the version in service is older than `days`."""

    name: Name
    when: Literal["age"]
    days: float = Field(gt=0)


class EnvironmentRule(StrictModel):
    """Met when a tool or the knowledge base outside is no longer what the version pinned.

    With `compatible` also when a tool changed and still keeps its contract.
    """

    name: Name
    when: Literal["environment_changed"]
    kinds: list[PartKind] = Field(default_factory=list, description="Empty: tools and knowledge")
    compatible: bool = False


Rule: TypeAlias = Annotated[
    DriftRule | BlindRule | MetricRule | EnvironmentRule | LabelsRule | AgeRule,
    Field(discriminator="when"),
]


class TriggerPolicy(StrictModel):
    """The whole of a trigger file."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    cooldown_hours: float = Field(default=24.0, ge=0, description="Between two pipeline starts")
    rules: list[Rule] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> TriggerPolicy:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules names {', '.join(twice)} more than once")
        return self


@dataclass(frozen=True)
class Signals:
    """What is known at `now`; None or empty means not known.

    Attributes:
        drift: Drift verdicts, oldest first.
        metrics: Metrics of traffic windows, oldest first (`observability.compute_task_metrics`).
        environment: The last look at the tools and the knowledge outside.
        new_labels: Labels since the version in service was trained.
        version_created_at: When that version was registered.
        last_started_at: When the pipeline was last started, None if it never was.
    """

    now: datetime
    drift: Sequence[DriftVerdict] = ()
    metrics: Sequence[Mapping[str, TaskMetric]] = ()
    new_labels: int | None = None
    version_created_at: datetime | None = None
    last_started_at: datetime | None = None
    environment: EnvironmentVerdict | None = None


@dataclass(frozen=True)
class RuleResult:
    """What one rule said, and why."""

    rule: str
    status: RuleStatus
    reason: str


@dataclass(frozen=True)
class TriggerDecision:
    """Whether to start the pipeline, with the reason of each rule.

    Attributes:
        fire: Start it.
        cooling_until: End of the cool-down, if that is what holds it back.
    """

    fire: bool
    results: tuple[RuleResult, ...]
    cooling_until: datetime | None = None

    def reasons(self) -> list[str]:
        """Return the reasons of the rules that were met."""
        return [f"{r.rule}: {r.reason}" for r in self.results if r.status is RuleStatus.MET]

    def summary(self) -> str:
        """Return the decision as one line for a log."""
        met = self.reasons()
        if self.fire:
            return "start: " + "; ".join(met)
        if met:
            until = self.cooling_until.isoformat() if self.cooling_until else "?"
            return f"cooling down until {until}: " + "; ".join(met)
        unknown = [r.rule for r in self.results if r.status is RuleStatus.UNKNOWN]
        tail = f" (unknown: {', '.join(unknown)})" if unknown else ""
        return f"do not start: no rule is met{tail}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "fire": self.fire,
            "cooling_until": self.cooling_until.isoformat() if self.cooling_until else None,
            "results": [
                {"rule": r.rule, "status": r.status.value, "reason": r.reason} for r in self.results
            ],
        }

    def _repr_html_(self) -> str:
        """Show the decision in a notebook."""
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(r.rule)}</td><td>{r.status.value}</td><td>{escape(r.reason)}</td></tr>"
            for r in self.results
        )
        return f"<p><b>{escape(self.summary())}</b></p><table>{rows}</table>"


def load_policy(path: str | Path) -> TriggerPolicy:
    """Read a trigger file.

    Raises:
        ConfigError: It is missing or malformed; the message names file, line and field.
    """
    return validate_document(
        read_yaml(Path(path), error=ConfigError), TriggerPolicy, error=ConfigError
    )


def decide(policy: TriggerPolicy, signals: Signals) -> TriggerDecision:
    """Return whether to start the pipeline now, by the module's rules."""
    results = tuple(_apply(rule, signals) for rule in policy.rules)
    met = any(result.status is RuleStatus.MET for result in results)
    until = None
    if signals.last_started_at is not None:
        end = signals.last_started_at + timedelta(hours=policy.cooldown_hours)
        until = end if end > signals.now else None
    return TriggerDecision(met and until is None, results, until)


def _apply(rule: Rule, signals: Signals) -> RuleResult:
    if isinstance(rule, DriftRule):
        status, reason = _drift(rule, signals.drift)
    elif isinstance(rule, BlindRule):
        status, reason = _blind(rule, signals.drift)
    elif isinstance(rule, MetricRule):
        status, reason = _metric(rule, signals.metrics)
    elif isinstance(rule, EnvironmentRule):
        status, reason = _environment(rule, signals.environment)
    elif isinstance(rule, LabelsRule):
        status, reason = _labels(rule, signals.new_labels)
    else:
        status, reason = _age(rule, signals)
    return RuleResult(rule.name, status, reason)


def _drift(rule: DriftRule, verdicts: Sequence[DriftVerdict]) -> tuple[RuleStatus, str]:
    if not verdicts:
        return RuleStatus.UNKNOWN, "there is no drift verdict"
    newest = verdicts[-1]
    if newest.drifted is None:
        return RuleStatus.UNKNOWN, newest.summary()
    confirmed = [column.name for column in newest.columns if column.confirmed]
    wanted = [name for name in confirmed if not rule.columns or name in rule.columns]
    if wanted:
        return RuleStatus.MET, f"drift is confirmed in {', '.join(wanted)}"
    if confirmed:
        return RuleStatus.UNMET, f"drift is confirmed only in {', '.join(confirmed)}"
    return RuleStatus.UNMET, newest.summary()


def _blind(rule: BlindRule, verdicts: Sequence[DriftVerdict]) -> tuple[RuleStatus, str]:
    last = list(verdicts)[-rule.windows :]
    blind = [verdict.drifted is None and not verdict.suspected for verdict in last]
    if len(last) == rule.windows and all(blind):
        return RuleStatus.MET, f"nothing could be said about drift in {rule.windows} windows"
    if len(last) < rule.windows and all(blind):
        return RuleStatus.UNKNOWN, f"only {len(last)} of {rule.windows} windows were checked"
    return RuleStatus.UNMET, "drift could be judged"


def _metric(
    rule: MetricRule, windows: Sequence[Mapping[str, TaskMetric]]
) -> tuple[RuleStatus, str]:
    last = list(windows)[-rule.windows :]
    if len(last) < rule.windows:
        return RuleStatus.UNKNOWN, f"only {len(last)} of {rule.windows} windows are known"
    shown = []
    beyond = True
    for window in last:
        metric = window.get(rule.metric)
        if metric is None or metric.value is None:
            return RuleStatus.UNKNOWN, f"{rule.metric} is not known in each window"
        low = metric.low if rule.sure and metric.low is not None else metric.value
        high = metric.high if rule.sure and metric.high is not None else metric.value
        beyond &= low > rule.above if rule.above is not None else high < (rule.below or 0.0)
        shown.append(f"{metric.value:.3g} [{low:.3g}, {high:.3g}]")
    bound = f"above {rule.above:g}" if rule.above is not None else f"below {rule.below:g}"
    status = RuleStatus.MET if beyond else RuleStatus.UNMET
    word = "is" if beyond else "is not surely"
    return status, f"{rule.metric} {word} {bound}: {', '.join(shown)}"


def _environment(
    rule: EnvironmentRule, verdict: EnvironmentVerdict | None
) -> tuple[RuleStatus, str]:
    if verdict is None:
        return RuleStatus.UNKNOWN, "nobody looked at the environment"
    parts = [part for part in verdict.parts if not rule.kinds or part.kind in rule.kinds]
    wanted = {PartStatus.CHANGED} | ({PartStatus.COMPATIBLE} if rule.compatible else set())
    changed = [part.line() for part in parts if part.status in wanted]
    if changed:
        return RuleStatus.MET, "; ".join(changed)
    unknown = [part.line() for part in parts if part.status is PartStatus.UNKNOWN]
    if unknown or not parts:
        return RuleStatus.UNKNOWN, "; ".join(unknown) or "none of it was looked at"
    return RuleStatus.UNMET, f"{len(parts)} parts are as pinned"


def _labels(rule: LabelsRule, count: int | None) -> tuple[RuleStatus, str]:
    if count is None:
        return RuleStatus.UNKNOWN, "the number of new labels is not known"
    status = RuleStatus.MET if count >= rule.at_least else RuleStatus.UNMET
    return status, f"{count} new labels, {rule.at_least} are asked for"


def _age(rule: AgeRule, signals: Signals) -> tuple[RuleStatus, str]:
    if signals.version_created_at is None:
        return RuleStatus.UNKNOWN, "the age of the version in service is not known"
    days = (signals.now - signals.version_created_at).total_seconds() / 86400
    status = RuleStatus.MET if days >= rule.days else RuleStatus.UNMET
    return status, f"the version in service is {days:.1f} days old, {rule.days:g} are allowed"
