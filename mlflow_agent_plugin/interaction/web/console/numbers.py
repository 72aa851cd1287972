"""Numbers about traffic for the pages that show them: read, grouped, kept for a minute.

Rules:
- They come from the monitoring table the server is told of (``MLFLOW_AGENTS_MONITORING_TABLE``);
  where there is none, there are no numbers, never zeros.
- What is asked for is computed once a minute at most, whatever the number of readers; a person of
  one tenant gets that tenant's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.interaction.web.console.rendering import short
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.registry.overview import find_digests

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.observability.metrics import TaskMetric

DAYS = (1, 7, 30)
_FRESH_SECONDS = 60.0
_KEPT = 32

TROUBLE: dict[str, Callable[[Any], Any]] = {
    "denied by policy": lambda f: f["denied"] > 0,
    "rejected by a person": lambda f: f["rejected"] > 0,
    "handed to a person": lambda f: f["escalated"],
    "failed": lambda f: (f["outcome"] == "failed") | (f["failed"] > 0),
}
"""What counts as trouble, in the order it is shown."""


@dataclass(frozen=True)
class Group:
    """One agent version's traffic."""

    title: str
    agent: str
    metrics: Mapping[str, TaskMetric]


@dataclass(frozen=True)
class Numbers:
    """What a page about some days shows.

    Attributes:
        agents: Names of the agents with traffic.
        groups: One per agent version.
        total: Metrics of all that is shown together; empty without traffic.
        days: Days with traffic, ISO dates.
        daily: Metrics of each of `days`.
        trouble: Kind of trouble to how many requests had it, for each of `days`.
        violations: Kind of safety violation to how many there were.
    """

    agents: Sequence[str] = ()
    groups: Sequence[Group] = ()
    total: Mapping[str, TaskMetric] = field(default_factory=dict)
    days: Sequence[str] = ()
    daily: Sequence[Mapping[str, TaskMetric]] = ()
    trouble: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    violations: Mapping[str, int] = field(default_factory=dict)

    def series(self, name: str) -> list[float | None]:
        """Return a metric's value on each of `days`."""
        return [metrics[name].value for metrics in self.daily]


_lock = threading.Lock()
_kept: dict[tuple[Any, ...], tuple[float, Any]] = {}


def numbers(*, days: int, tenant: str | None, agent: str = "") -> Numbers | None:
    """Return the numbers of the last `days`; None where no monitoring table is set.

    Raises:
        DataError: The table cannot be read.
    """
    table = Settings.from_env().monitoring_table
    if not table:
        return None
    with _lock:
        rows = _fresh(("rows", table, days), lambda: _rows(table, days))
        found: Numbers = _fresh(
            ("numbers", table, days, tenant, agent), lambda: _numbers(rows, tenant, agent)
        )
        return found


def tool_numbers(
    *, days: int, tenant: str | None, agent: str = ""
) -> Mapping[str, Mapping[str, TaskMetric]]:
    """Return each tool's numbers of the last `days`; none where no monitoring table is set.

    Raises:
        DataError: The table cannot be read.
    """
    table = Settings.from_env().monitoring_table
    if not table:
        return {}
    with _lock:
        found: Mapping[str, Mapping[str, TaskMetric]] = _fresh(
            ("tools", table, days, tenant, agent), lambda: _tools(table, days, tenant, agent)
        )
        return found


def _tools(
    table: str, days: int, tenant: str | None, agent: str
) -> Mapping[str, Mapping[str, TaskMetric]]:
    from mlflow_agent_plugin.observability import read_steps
    from mlflow_agent_plugin.observability.metrics import compute_tool_metrics

    steps = read_steps(table, since=utc_now() - timedelta(days=days))
    if tenant is not None:
        steps = steps[steps["tenant"] == tenant]
    if agent:
        steps = steps[steps["agent"] == agent]
    return compute_tool_metrics(steps)


def _fresh(key: tuple[Any, ...], make: Any) -> Any:
    now = time.monotonic()
    at, value = _kept.get(key, (float("-inf"), None))
    if now - at > _FRESH_SECONDS:
        value = make()
        while len(_kept) >= _KEPT:
            _kept.pop(next(iter(_kept)))
        _kept.pop(key, None)
        _kept[key] = (time.monotonic(), value)
    return value


def _rows(table: str, days: int) -> pd.DataFrame:
    from mlflow_agent_plugin.observability import read_table

    return read_table(table, since=utc_now() - timedelta(days=days))


def _numbers(rows: pd.DataFrame, tenant: str | None, agent: str) -> Numbers:
    from mlflow_agent_plugin.observability.metrics import (
        compute_task_metrics,
        metrics_by,
        violations_by_kind,
    )

    if tenant is not None:
        rows = rows[rows["tenant"] == tenant]
    agents = sorted(str(name) for name in rows["agent"].dropna().unique())
    if agent:
        rows = rows[rows["agent"] == agent]
    if not len(rows):
        return Numbers(agents=agents)
    known = find_digests(set(rows["agent_digest"].dropna()), client=records().client)
    groups = []
    for (name, digest), part in rows.groupby(["agent", "agent_digest"], sort=True):
        versions = known.get(str(digest), [])
        titles = [f"{each.name} version {each.version}" for each in versions[:3]]
        title = ", ".join(titles) or f"{name}, content {short(str(digest))}"
        groups.append(Group(title, str(name), compute_task_metrics(part)))
    dated = rows.assign(day=rows["event_time"].dt.strftime("%Y-%m-%d"))
    daily = metrics_by(dated, "day")
    trouble = {
        name: [float(value) for value in rule(dated).groupby(dated["day"]).sum().sort_index()]
        for name, rule in TROUBLE.items()
    }
    return Numbers(
        agents=agents,
        groups=groups,
        total=compute_task_metrics(rows),
        days=list(daily),
        daily=list(daily.values()),
        trouble=trouble,
        violations=violations_by_kind(rows),
    )
