"""How the agent did, from the monitoring table: rates with intervals, latency, tokens, cost.

Rules:
- A rate comes with a 95 % interval. Rows of one session are not independent: the sample size behind
  the interval is divided by the design effect, and never exceeds what the sessions support when the
  rate is 0 or 1.
- No data is not good data: without rows a rate is None and its interval the whole range.
- Completion is what the traffic itself can tell (answered or acted); whether the answer was right
  takes labels, which the evaluation has.

Source: Kish 1965, Survey Sampling, 5.4 (design effect of a ratio estimate over clusters); Wilson
1927 for the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_agent_plugin.entities import Outcome, Violation
from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TaskMetric:
    """One number about traffic.

    Attributes:
        value: None when there is nothing to compute it from.
        low: Lower end of the 95 % interval, None for numbers without one.
        high: Upper end, likewise.
        n: Rows behind it.
        unit: "rate", "seconds", "tokens", "usd" or "count".
    """

    value: float | None
    n: int
    unit: str
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


_RATES: dict[str, Callable[[Any], Any]] = {
    "completion_rate": lambda f: f["outcome"].isin([Outcome.ANSWERED.value, Outcome.ACTED.value]),
    "escalation_rate": lambda f: f["escalated"],
    "clarification_rate": lambda f: f["clarified"],
    "refusal_rate": lambda f: f["outcome"] == Outcome.REFUSED.value,
    "failure_rate": lambda f: f["outcome"] == Outcome.FAILED.value,
    "approval_rate": lambda f: f["approvals"] > 0,
    "override_rate": lambda f: f["rejected"] > 0,
    "denial_rate": lambda f: f["denied"] > 0,
    "tool_failure_rate": lambda f: f["failed"] > 0,
    "violation_rate": lambda f: _kinds(f).map(_some),
}

ROW_COLUMNS = frozenset(
    {"tenant", "session_id", "outcome", "escalated", "clarified", "approvals", "rejected"}
    | {"denied", "failed", "seconds", "input_tokens", "output_tokens", "calls", "model_calls"}
    | {"cost_usd"}
)
"""Columns of the monitoring table that `compute_task_metrics` takes."""

_QUANTILES = {"latency_p50_seconds": 0.5, "latency_p95_seconds": 0.95, "latency_p99_seconds": 0.99}

_STEPS_NEEDED = frozenset({"kind", "name", "tenant", "session_id", "status", "seconds", "cost_usd"})
_STEP_RATES = {
    "failure_rate": ("failed", "in_doubt", "invalid", "limited"),
    "denial_rate": ("denied",),
    "override_rate": ("rejected",),
}

METRIC_NAMES: tuple[str, ...] = (
    "requests",
    "sessions",
    *_RATES,
    *_QUANTILES,
    "input_tokens_mean",
    "output_tokens_mean",
    "calls_mean",
    "model_calls_mean",
    "cost_usd_mean",
    "cost_usd_total",
)


def compute_task_metrics(rows: pd.DataFrame) -> dict[str, TaskMetric]:
    """Return every metric of `METRIC_NAMES` for monitoring rows.

    Raises:
        DataError: `rows` are not of the monitoring table's schema.
    """
    missing = sorted(ROW_COLUMNS - set(rows.columns))
    if missing:
        raise DataError(f"rows lack {', '.join(missing)}: they are no monitoring rows")
    n = len(rows)
    sessions = rows.groupby(["tenant", "session_id"], sort=False, dropna=False).ngroup().to_numpy()
    found = {
        "requests": TaskMetric(float(n), n, "count"),
        "sessions": TaskMetric(float(len(np.unique(sessions))), n, "count"),
    }
    for name, rule in _RATES.items():
        found[name] = _rate(rule(rows).to_numpy(dtype=bool), sessions)
    seconds = rows["seconds"].dropna().to_numpy(dtype=float)
    for name, share in _QUANTILES.items():
        value = float(np.quantile(seconds, share)) if len(seconds) else None
        found[name] = TaskMetric(value, len(seconds), "seconds")
    for name, column, unit in (
        ("input_tokens_mean", "input_tokens", "tokens"),
        ("output_tokens_mean", "output_tokens", "tokens"),
        ("calls_mean", "calls", "count"),
        ("model_calls_mean", "model_calls", "count"),
        ("cost_usd_mean", "cost_usd", "usd"),
    ):
        values = rows[column].dropna().to_numpy(dtype=float)
        found[name] = TaskMetric(float(values.mean()) if len(values) else None, len(values), unit)
    cost = rows["cost_usd"].dropna()
    found["cost_usd_total"] = TaskMetric(float(cost.sum()), len(cost), "usd")
    return found


def violations_by_kind(rows: pd.DataFrame) -> dict[str, int]:
    """Return how many safety violations of each kind (entities.Violation) there were.

    Raises:
        DataError: `rows` are not of the monitoring table's schema.
    """
    if "violations" not in rows.columns:
        raise DataError("rows lack violations: they are no monitoring rows")
    counts = dict.fromkeys((kind.value for kind in Violation), 0)
    for kinds in rows["violations"]:
        for kind in kinds if _some(kinds) else ():
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def compute_tool_metrics(steps: pd.DataFrame) -> dict[str, dict[str, TaskMetric]]:
    """Return for each tool its calls, rates, latency and cost, from the table of steps.

    Raises:
        DataError: `steps` are not of the steps' schema.
    """
    missing = sorted(_STEPS_NEEDED - set(steps.columns))
    if missing:
        raise DataError(f"rows lack {', '.join(missing)}: they are no steps")
    found = {}
    for name, part in steps[steps["kind"] == "tool"].groupby("name", sort=True):
        keys = ["tenant", "session_id"]
        sessions = part.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
        seconds = part["seconds"].dropna().to_numpy(dtype=float)
        cost = part["cost_usd"].dropna()
        metrics = {
            "calls": TaskMetric(float(len(part)), len(part), "count"),
            "cost_usd_total": TaskMetric(float(cost.sum()), len(cost), "usd"),
        }
        for rate, statuses in _STEP_RATES.items():
            hits = part["status"].isin(statuses).to_numpy(dtype=bool)
            metrics[rate] = _rate(hits, sessions)
        for quantile in ("latency_p50_seconds", "latency_p95_seconds"):
            value = float(np.quantile(seconds, _QUANTILES[quantile])) if len(seconds) else None
            metrics[quantile] = TaskMetric(value, len(seconds), "seconds")
        found[str(name)] = metrics
    return found


def metrics_by(rows: pd.DataFrame, column: str) -> dict[str, dict[str, TaskMetric]]:
    """Return `compute_task_metrics` for each value of `column` (``tenant``, ``version`` …).

    With ``tools`` a row counts for every tool it wanted to call.

    Raises:
        DataError: There is no such column.
    """
    if column not in rows.columns:
        raise DataError(f"monitoring rows have no column {column!r}")
    frame = rows
    if column == "tools":
        frame = rows.assign(tools=rows["tools"].map(lambda tools: sorted(set(tools))))
        frame = frame.explode("tools").dropna(subset=["tools"])
    return {
        str(value): compute_task_metrics(part)
        for value, part in frame.groupby(column, sort=True, dropna=True)
    }


def flatten(metrics: Mapping[str, TaskMetric], *, prefix: str = "traffic/") -> dict[str, float]:
    """Return metrics as MLflow wants them: one number per name, ``_low``/``_high`` beside rates."""
    numbers = {}
    for name, metric in metrics.items():
        for suffix, value in (("", metric.value), ("_low", metric.low), ("_high", metric.high)):
            if value is not None:
                numbers[f"{prefix}{name}{suffix}"] = value
    return numbers


def _kinds(rows: pd.DataFrame) -> pd.Series[Any]:
    # Rows that were kept in a file of one's own may be of before there were violations.
    if "violations" in rows.columns:
        return rows["violations"]
    return rows["outcome"].map(lambda _: None)


def _some(kinds: Any) -> bool:
    # A row of before there were violations has None or NaN here.
    return kinds is not None and not isinstance(kinds, float) and len(kinds) > 0


def _rate(hits: Any, sessions: Any) -> TaskMetric:
    n = len(hits)
    if n == 0:
        low, high = wilson_interval(0, 0)
        return TaskMetric(None, 0, "rate", low, high)
    share = float(hits.mean())
    effective = max(1, round(_effective_size(hits.astype(float), sessions, share)))
    # Wilson's interval needs whole numbers: the rate is kept, the sample shrinks.
    low, high = wilson_interval(round(share * effective), effective)
    return TaskMetric(share, n, "rate", min(low, share), max(high, share))


def _effective_size(hits: Any, sessions: Any, share: float) -> float:
    """Return the rows that count as independent."""
    n, groups = len(hits), int(sessions.max()) + 1
    if share in (0.0, 1.0) or groups < 2:
        return float(groups)
    residuals = np.bincount(sessions, weights=hits - share, minlength=groups)
    variance = groups / (groups - 1) * float((residuals**2).sum()) / n**2
    if variance == 0:
        return float(groups)
    return min(float(n), share * (1 - share) / variance)
