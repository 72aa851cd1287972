"""The traces a build of the monitoring table reads, and what it remembers of them.

Rules:
- A build asks for traces from the last one seen, less the overlap, and for those that waited in a
  spool and were delivered since the last build's day.
- What one experiment's build asks for is a `Plan`, made before anything is read. What was found is
  a `Reading`; readings of parts of a plan add up to the reading of the whole.
- A trace from a clock that runs ahead must not hide those that come after it: the position never
  passes the moment at which the build began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.schema import (
    NO_TRAFFIC_TAG,
    row_from_summary,
    summary_of,
)
from mlflow_agent_plugin.observability.spool.delivery import DELIVERED_DAY_KEY
from mlflow_agent_plugin.observability.steps import STEPS_KEY, rows_from_steps

_PAGE_SIZE = 500  # as many as the REST API gives at once
SHOWN_PROBLEMS = 20
"""So many requests that made no sense are named, the others counted."""

NOWHERE: Mapping[str, Any] = {"last_ms": 0, "ids": (), "day": None, "late": ()}
"""The position of an experiment that was never read."""


@dataclass(frozen=True)
class Plan:
    """What a build asks of one experiment.

    Attributes:
        start_ms: Begin of the first trace it looks at, milliseconds since 1970.
        last_ms: Begin of the last trace seen so far.
        now_ms: When the build began.
        overlap_ms: How far before the last trace the next build looks again.
        known: Ids of traces that stand in the table and will be seen again.
        late_from: Day of the last build, ISO; None: look for no late traces.
        late_known: Ids of late traces the last build saw.
    """

    experiment: str
    start_ms: int
    last_ms: int
    now_ms: int
    overlap_ms: int
    known: frozenset[str]
    late_from: str | None
    late_known: frozenset[str]

    @classmethod
    def after(
        cls,
        position: Mapping[str, Any],
        experiment: str,
        *,
        now: datetime,
        floor_ms: int,
        overlap_ms: int,
        rebuild: bool,
    ) -> Plan:
        """Return what to ask after `position`; to rebuild is to ask for everything again."""
        last_ms = int(position["last_ms"])
        return cls(
            experiment=experiment,
            start_ms=floor_ms if rebuild else max(floor_ms, last_ms - overlap_ms),
            last_ms=last_ms,
            now_ms=int(now.timestamp() * 1000),
            overlap_ms=overlap_ms,
            known=frozenset() if rebuild else frozenset(position["ids"]),
            late_from=None if rebuild else position["day"],
            late_known=frozenset(position["late"]),
        )

    @property
    def today(self) -> date:
        """The build's UTC day."""
        return datetime.fromtimestamp(self.now_ms / 1000, timezone.utc).date()

    def position(self, reading: Reading) -> dict[str, Any]:
        """Return where the next build goes on after `reading`."""
        last = max(self.last_ms, reading.last_ms)
        return {
            "last_ms": last,
            "ids": sorted(
                name for name, begun in reading.recent.items() if begun >= last - self.overlap_ms
            ),
            "day": self.today.isoformat(),
            "late": sorted(reading.late),
        }


@dataclass
class Reading:
    """What was found for a plan.

    Attributes:
        seen: Traces looked at.
        last_ms: Begin of the last of them.
        recent: When those that may be seen again began, by id.
        late: Ids of those that were delivered today.
        skipped: How many made no sense.
        problems: What was wrong with the first of them.
    """

    seen: int = 0
    last_ms: int = 0
    recent: dict[str, int] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    skipped: int = 0
    problems: list[str] = field(default_factory=list)

    def rows(
        self, plan: Plan, infos: Iterable[Any], known: frozenset[str]
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield the row and the steps of each of `infos` that is traffic and not `known`."""
        today = plan.today.isoformat()
        for info in infos:
            self.seen += 1
            self.last_ms = max(self.last_ms, min(plan.now_ms, info.request_time))
            if info.trace_metadata.get(DELIVERED_DAY_KEY) == today:
                self.late.append(info.trace_id)
            summary = summary_of(info)
            if summary is None or info.trace_metadata.get("mlflow.sourceRun"):
                continue
            if info.tags.get(NO_TRAFFIC_TAG):
                continue
            self.recent[info.trace_id] = info.request_time
            if info.trace_id in known:
                continue
            try:
                row = row_from_summary(summary, trace_id=info.trace_id)
                kept = summary_of(info, STEPS_KEY)
                steps = [] if kept is None else rows_from_steps(kept, row)
            except DataError as error:
                self.skipped += 1
                if len(self.problems) < SHOWN_PROBLEMS:
                    self.problems.append(str(error))
                continue
            yield row, steps

    def forget(self, overlap_ms: int) -> None:
        """Drop what no position will need, so that a reading stays small."""
        self.recent = {
            name: begun for name, begun in self.recent.items() if begun >= self.last_ms - overlap_ms
        }

    def add(self, other: Reading) -> None:
        """Add what was found in another part of the plan."""
        self.seen += other.seen
        self.last_ms = max(self.last_ms, other.last_ms)
        self.recent |= other.recent
        self.late += other.late
        self.skipped += other.skipped
        self.problems = [*self.problems, *other.problems][:SHOWN_PROBLEMS]


def iter_traces(
    experiment: str, start_ms: int, end_ms: int | None = None, *, client: Any = None
) -> Iterator[Any]:
    """Yield trace infos of `experiment` from `start_ms` on and before `end_ms`, oldest first.

    Pages follow the time, not an offset: a page costs the same wherever it lies. Only where one
    millisecond fills a whole page does MLflow's page token take over.

    Args:
        experiment: Id of the experiment.
        start_ms: Milliseconds since 1970.
        end_ms: Likewise; None: no end.
        client: An `MlflowClient`; default: one of the tracking server this process uses.
    """
    client = client or _client()
    before = "" if end_ms is None else f" AND attributes.timestamp_ms < {end_ms}"
    cursor, token = start_ms, None
    at_cursor: set[str] = set()
    while True:
        page = client.search_traces(
            locations=[experiment],
            filter_string=f"attributes.timestamp_ms >= {cursor}{before}",
            max_results=_PAGE_SIZE,
            order_by=["timestamp_ms ASC"],
            page_token=token,
            include_spans=False,
        )
        infos = [trace.info for trace in page]
        for info in infos:
            if info.trace_id not in at_cursor:
                yield info
        if page.token is None or not infos:
            return
        last = infos[-1].request_time
        if last > cursor:
            at_cursor = {info.trace_id for info in infos if info.request_time == last}
            cursor, token = last, None
        else:
            at_cursor |= {info.trace_id for info in infos}
            token = page.token


def late_traces(plan: Plan, *, client: Any = None) -> Iterator[Any]:
    """Yield the traces that waited in a spool and arrived since the last build's day."""
    if plan.late_from is None:
        return  # the first build reads everything anyway
    client = client or _client()
    # A server in another place may be a day ahead or behind.
    day = date.fromisoformat(plan.late_from) - timedelta(days=1)
    while day <= plan.today + timedelta(days=1):
        token = None
        while True:
            page = client.search_traces(
                locations=[plan.experiment],
                filter_string=f"metadata.`{DELIVERED_DAY_KEY}` = '{day.isoformat()}'",
                max_results=_PAGE_SIZE,
                page_token=token,
                include_spans=False,
            )
            for trace in page:
                if trace.info.trace_id not in plan.late_known:
                    yield trace.info
            token = page.token
            if not token:
                break
        day += timedelta(days=1)


def list_experiments(experiment_ids: Sequence[str] | str | None) -> list[str]:
    """Return the ids named, or those of all active experiments for None."""
    if isinstance(experiment_ids, str):
        return [experiment_ids]
    if experiment_ids is not None:
        return [str(experiment) for experiment in experiment_ids]
    client, token = _client(), None
    found: list[str] = []
    while True:
        page = client.search_experiments(page_token=token)
        found.extend(experiment.experiment_id for experiment in page)
        if not page.token:
            return found
        token = page.token


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient()
