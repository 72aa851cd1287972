"""Numbers about traffic for the pages that show them: read, grouped, kept for a minute.

Rules:
- They come from the monitoring table the server is told of (``MLFLOW_AGENTS_MONITORING_TABLE``);
  where there is none, there are no numbers, never zeros.
- What is asked for is computed once a minute at most, whatever the number of readers; a person of
  one tenant gets that tenant's.
- No page waits for a large table: numbers are worked out by one thread beside the requests. A page
  waits `WAIT_SECONDS`; then it shows those of before, which say of when they are, or that they are
  being worked out, and asks again by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.interaction.web.console.rendering import short
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.observability.metrics import (
    ROW_COLUMNS,
    TaskMetric,
    compute_task_metrics,
    compute_tool_metrics,
    metrics_by,
    violations_by_kind,
)
from mlflow_agent_plugin.registry.overview import find_digests

if TYPE_CHECKING:
    import pandas as pd

DAYS = (1, 7, 30)
WAIT_SECONDS = 0.2
_FRESH_SECONDS = 60.0
_OLD_SECONDS = 600.0
_KEPT = 32
_COLUMNS = ROW_COLUMNS | {"agent", "agent_digest", "violations"}

TROUBLE: dict[str, Callable[[Any], Any]] = {
    "denied by policy": lambda f: f["denied"] > 0,
    "rejected by a person": lambda f: f["rejected"] > 0,
    "handed to a person": lambda f: f["escalated"],
    "failed, or a tool did": lambda f: (f["outcome"] == "failed") | (f["failed"] > 0),
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
        tools: Tool to its metrics.
        at: When the numbers were worked out.
        pending: They are being worked out: there is nothing to show yet.
    """

    agents: Sequence[str] = ()
    groups: Sequence[Group] = ()
    total: Mapping[str, TaskMetric] = field(default_factory=dict)
    days: Sequence[str] = ()
    daily: Sequence[Mapping[str, TaskMetric]] = ()
    trouble: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    violations: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, Mapping[str, TaskMetric]] = field(default_factory=dict)
    at: datetime | None = None
    pending: bool = False

    def series(self, name: str) -> list[float | None]:
        """Return a metric's value on each of `days`."""
        return [metrics[name].value for metrics in self.daily]


@dataclass(frozen=True)
class _Kept:
    since: float
    value: Any


_lock = threading.Lock()
_kept: dict[tuple[Any, ...], _Kept] = {}
_jobs: dict[tuple[Any, ...], Future[Numbers]] = {}


@lru_cache(maxsize=1)
def _worker() -> ThreadPoolExecutor:
    # One: what is asked for at the same time shares the table's rows, and requests keep a core.
    return ThreadPoolExecutor(1, thread_name_prefix="numbers")


def numbers(*, days: int, tenant: str | None, agent: str = "") -> Numbers | None:
    """Return the numbers of the last `days`; None where no monitoring table is set.

    Raises:
        DataError: The table cannot be read.
    """
    table = Settings.from_env().monitoring_table
    if not table:
        return None
    key = ("numbers", table, days, tenant, agent)
    found = _soon(key, partial(_work_out, table, days, tenant, agent))
    return Numbers(pending=True) if found is None else found


def _soon(key: tuple[Any, ...], make: Callable[[], Numbers]) -> Numbers | None:
    """Return what `make` gives, or gave some minutes ago, or None while it is at it."""
    with _lock:
        kept = _kept.get(key)
        age = float("inf") if kept is None else time.monotonic() - kept.since
        if kept is not None and age <= _FRESH_SECONDS:
            return _numbers_of(kept)
        job = _jobs.get(key)
        if job is not None and job.done() and job.exception() is None:
            job = None  # nobody came back for it while it was fresh
        if job is None and _has_room():
            job = _jobs[key] = _worker().submit(_made, key, make)
    if job is not None and wait([job], WAIT_SECONDS).done:
        with _lock:
            if _jobs.get(key) is job:
                del _jobs[key]
        return job.result()
    return _numbers_of(kept) if kept is not None and age <= _OLD_SECONDS else None


def _made(key: tuple[Any, ...], make: Callable[[], Numbers]) -> Numbers:
    found = make()
    with _lock:
        _keep(key, found)
    return found


def _has_room() -> bool:
    """Return whether one more may wait to be worked out; what nobody came back for makes room."""
    if len(_jobs) >= _KEPT:
        for key in [key for key, job in _jobs.items() if job.done()]:
            del _jobs[key]
    return len(_jobs) < _KEPT


def _numbers_of(kept: _Kept) -> Numbers:
    found: Numbers = kept.value
    return found


def _keep(key: tuple[Any, ...], value: Any) -> None:
    while len(_kept) >= _KEPT:
        _kept.pop(next(iter(_kept)))
    _kept.pop(key, None)
    _kept[key] = _Kept(time.monotonic(), value)


def _work_out(table: str, days: int, tenant: str | None, agent: str) -> Numbers:
    found = _numbers(_rows(table, days), tenant, agent)
    return replace(found, tools=_tools(table, days, tenant, agent), at=utc_now())


def _tools(
    table: str, days: int, tenant: str | None, agent: str
) -> Mapping[str, Mapping[str, TaskMetric]]:
    from mlflow_agent_plugin.observability import read_steps

    try:
        steps = read_steps(table, since=utc_now() - timedelta(days=days))
    except DataError:  # a table of before there were steps
        return {}
    if tenant is not None:
        steps = steps[steps["tenant"] == tenant]
    if agent:
        steps = steps[steps["agent"] == agent]
    return compute_tool_metrics(steps)


def _rows(table: str, days: int) -> pd.DataFrame:
    """Return the rows everybody's numbers of these days come from; only the worker asks."""
    from mlflow_agent_plugin.observability import read_table

    key = ("rows", table, days)
    with _lock:
        kept = _kept.get(key)
    if kept is not None and time.monotonic() - kept.since <= _FRESH_SECONDS:
        rows: pd.DataFrame = kept.value
        return rows
    rows = read_table(table, since=utc_now() - timedelta(days=days), columns=_COLUMNS)
    with _lock:
        _keep(key, rows)
    return rows


def _numbers(rows: pd.DataFrame, tenant: str | None, agent: str) -> Numbers:
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
