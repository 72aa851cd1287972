"""What an evaluation gives back: per suite the rows, the metrics with intervals, and views."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.trust.evidence import CaseResult, Metric, MetricKind

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from mlflow_agent_plugin.development.comparison import Comparison
    from mlflow_agent_plugin.development.stability import Stability

_HEADINGS = ("suite", "measure", "value", "95% interval", "n")
_SHOWN = (
    "task_success",
    "intent_accuracy",
    "outcome_accuracy",
    "unsafe_calls",
    "escalation_rate",
    "clarification_rate",
    "refusal_rate",
    "mean_steps",
)


@dataclass(frozen=True)
class SuiteResult:
    """Results of one suite.

    Attributes:
        name: Name of the suite.
        digest: ``sha256:…`` of the suite.
        results_digest: ``sha256:…`` of the results table.
        rows: What became of each case, sorted by case id.
        metrics: Metrics with intervals by name.
        latency: Seconds of one turn of the agent: ``p50``, ``p95``, ``p99``, ``max``.
        seconds: Wall-clock time of the suite.
        resumed: Cases taken over from an interrupted run.
        audit_events: Audit events of the cases, their chains verified.
        artifact_path: Folder of the suite's artifacts in the run.
        comparison: Against the baseline, if one was given.
        stability: Over repeated runs, if there were any.
    """

    name: str
    digest: str
    results_digest: str
    rows: tuple[CaseResult, ...] = field(repr=False)
    metrics: Mapping[str, Metric] = field(repr=False)
    latency: Mapping[str, float]
    seconds: float
    resumed: int
    audit_events: int
    artifact_path: str
    comparison: Comparison | None = field(default=None, repr=False)
    stability: Stability | None = None

    @property
    def evidence_path(self) -> str:
        """The signed evidence, as an artifact path of the run."""
        return f"{self.artifact_path}/evidence.dsse.json"

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that failed."""
        return [row for row in self.rows if not row.success]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a case."""
        import pandas as pd

        return pd.DataFrame([row.model_dump(mode="json") for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the rows."""
        return {
            "name": self.name,
            "digest": self.digest,
            "results_digest": self.results_digest,
            "cases": len(self.rows),
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "latency_seconds": dict(self.latency),
            "seconds": self.seconds,
            "resumed": self.resumed,
            "audit_events": self.audit_events,
            "evidence": self.evidence_path,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "stability": None if self.stability is None else self.stability.to_dict(),
        }

    def table_rows(self) -> list[tuple[str, ...]]:
        """Return the measures people look at first: suite, measure, value, interval, n."""
        rows: list[tuple[str, ...]] = []
        for name in _SHOWN:
            metric = self.metrics.get(name)
            if metric is None or metric.n == 0:
                continue
            rows.append(
                (self.name if not rows else "", name, *show_metric(name, metric), str(metric.n))
            )
        if self.stability is not None:
            split = self.stability.success
            shown = f"{split.mean:.1%} ± {1.96 * split.standard_error:.1%}"
            rows.append(("", f"task_success, {split.runs} runs", shown, "", str(split.cases)))
        turn = f"p50 {self.latency['p50'] * 1000:.0f} ms, p95 {self.latency['p95'] * 1000:.0f} ms"
        rows.append(("", "latency of a turn", turn, "", ""))
        return rows


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` found out.

    Attributes:
        run_id: The MLflow run that holds everything.
        experiment_id: Its experiment.
        agent: Agent name.
        digest: ``sha256:…`` of the agent.
        model_uri: What was evaluated.
        suites: Results by suite name.
        submitted: ``name/version`` the evidence was submitted to, None if it was not.
    """

    run_id: str
    experiment_id: str
    agent: str
    digest: str
    model_uri: str
    suites: Mapping[str, SuiteResult]
    submitted: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric of the run, as MLflow has it."""
        return {
            name: value
            for suite in self.suites.values()
            for name, value in flat_metrics(suite).items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "run_id": self.run_id,
            "experiment_id": self.experiment_id,
            "agent": self.agent,
            "digest": self.digest,
            "model_uri": self.model_uri,
            "submitted": self.submitted,
            "suites": {name: suite.to_dict() for name, suite in self.suites.items()},
        }

    def to_table(self) -> Table:
        """Return a table for a terminal (``rich.print(result.to_table())``)."""
        from rich.table import Table

        table = Table(title=f"{self.agent} ({self.digest[:19]}…)", caption=f"run {self.run_id}")
        for at, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="left" if at < 2 else "right")
        for suite in self.suites.values():
            for row in suite.table_rows():
                table.add_row(*row)
            table.add_section()
        return table

    def __str__(self) -> str:
        parts = []
        for suite in self.suites.values():
            success = suite.metrics["task_success"]
            value, interval = show_metric("task_success", success)
            unsafe = suite.metrics["unsafe_calls"].value
            parts.append(
                f"{suite.name}: task_success {value} {interval}, {success.n} cases, "
                f"{unsafe:g} unsafe calls"
            )
        return f"{self.agent} {self.digest[:19]}…: " + "; ".join(parts)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for suite in self.suites.values()
            for row in suite.table_rows()
        )
        title = f"{html.escape(self.agent)} <code>{self.digest[:19]}…</code>"
        tables = "".join(
            suite.comparison._repr_html_()  # noqa: SLF001 - the notebook protocol
            for suite in self.suites.values()
            if suite.comparison is not None
        )
        caption = f"{title}, run <code>{html.escape(self.run_id)}</code>"
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>{tables}"


def show_metric(name: str, metric: Metric) -> tuple[str, str]:
    """Return a metric's value and interval as people read them.

    The normal interval of a mean may end outside of what is possible; it is shown up to there.
    """
    if metric.n == 0:
        return "nothing to judge", ""
    if metric.kind is MetricKind.COUNT:
        return f"{metric.value:g}", ""
    if metric.kind is MetricKind.RATE or name in _SHARES:
        value = f"{metric.value:.1%}"
        if metric.low is None or metric.high is None:
            return value, ""
        return value, f"[{max(0.0, metric.low):.1%}, {min(1.0, metric.high):.1%}]"
    if metric.low is None or metric.high is None:
        return _number(metric.value), ""
    return _number(metric.value), f"[{_number(max(0.0, metric.low))}, {_number(metric.high)}]"


_SHARES = frozenset({"tool_call_precision", "tool_call_recall", "argument_accuracy"})
"""Means of shares: no more than 1."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - from here on digits get too many


def flat_metrics(suite: SuiteResult) -> dict[str, float]:
    """Return the suite's metrics as MLflow gets them: ``<suite>/<metric>[_low|_high]``."""
    flat: dict[str, float] = {}
    for name, metric in suite.metrics.items():
        flat[f"{suite.name}/{name}"] = metric.value
        if metric.kind is not MetricKind.COUNT:
            if metric.low is not None:
                flat[f"{suite.name}/{name}_low"] = metric.low
            if metric.high is not None:
                flat[f"{suite.name}/{name}_high"] = metric.high
    flat[f"{suite.name}/cases"] = float(len(suite.rows))
    flat[f"{suite.name}/seconds"] = suite.seconds
    for name, seconds in suite.latency.items():
        flat[f"{suite.name}/latency_{name}_seconds"] = seconds
    if suite.stability is not None:
        flat[f"{suite.name}/task_success_mean_of_runs"] = suite.stability.success.mean
        flat[f"{suite.name}/task_success_standard_error"] = suite.stability.success.standard_error
        flat[f"{suite.name}/flaky_cases"] = float(len(suite.stability.flaky))
    if suite.comparison is not None:
        for name, rate in suite.comparison.rates.items():
            if rate.verdict.difference.n:
                flat[f"{suite.name}/{name}_difference"] = rate.verdict.difference.difference
                flat[f"{suite.name}/{name}_difference_low"] = rate.verdict.difference.low
    return flat


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile and maximum (nearest rank); zeros if empty."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

    return {"p50": at(0.50), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)}
