"""The monitoring table: one row per request, parquet by day, built from MLflow traces.

Layout: ``<path>/day=2026-01-31/part.parquet`` (UTC days of `event_time`, one file each, readable by
pandas, DuckDB and Spark), the same below ``<path>/_steps`` with one row per step, and
``<path>/_state.json`` (how far each experiment has been read).

Rules:
- Building twice gives the same table: a trace id stands in its day's file once, whatever happens.
- It lies in a folder or in an S3 bucket (see `place`). A crash leaves whole files; the state is
  written last: a build after a crash reads the traces again and adds what is missing.
- One builder at a time: a second one waits for the first.
- A build costs what is new: it asks for traces from the last one seen, less `overlap_seconds` for
  requests that began earlier and ended later, and rewrites only the days that got new rows.
- Traces that waited in a spool arrive later than that. They say on which day they came, and a build
  asks for those of the days since the last one.
- A request's steps stand in the table before the request does: a crash between the two files makes
  the next build write both again.
- Traces of runs (evaluations, notebooks inside `mlflow.start_run`) are not traffic, nor are those
  with the tag `NO_TRAFFIC_TAG` (versions on trial).
- A trace whose summary makes no sense is counted and named, never guessed at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.place import FolderPlace, Place, all_fetched, open_place
from mlflow_agent_plugin.observability.schema import (
    NO_TRAFFIC_TAG,
    SCHEMA_VERSION,
    read_arrow,
    read_columns,
    read_rows,
    row_from_summary,
    rows_to_arrow,
    summary_of,
)
from mlflow_agent_plugin.observability.spool.delivery import DELIVERED_DAY_KEY
from mlflow_agent_plugin.observability.steps import (
    STEP_COLUMNS,
    STEPS_KEY,
    STEPS_SCHEMA_VERSION,
    rows_from_steps,
    step_schema,
    steps_to_arrow,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_logger = logging.getLogger(__name__)

OVERLAP_SECONDS = 3600.0
LOCK_TIMEOUT_SECONDS = 600.0
_PAGE_SIZE = 500  # as many as the REST API gives at once
_BATCH_ROWS = 50_000
_STATE_FILE = "_state.json"
_STEPS_FOLDER = "_steps"
_DAY_FILE = "part.parquet"
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class MonitoringTable:
    """A monitoring table, and what the last build did.

    Attributes:
        path: Folder of the table, or its ``s3://`` URI.
        added: Rows the build added.
        seen: Traces the build looked at.
        skipped: Traces with a summary that made no sense.
        problems: What was wrong with the first of them.
        days: Days the build changed, ISO dates in order.
    """

    path: Path | str
    added: int = 0
    seen: int = 0
    skipped: int = 0
    problems: tuple[str, ...] = ()
    days: tuple[str, ...] = ()

    def steps(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> pd.DataFrame:
        """Return the rows of steps, as `read_steps`."""
        return read_steps(self.path, since=since, until=until)

    def to_pandas(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> pd.DataFrame:
        """Return the table's rows, as `read_table`."""
        return read_table(self.path, since=since, until=until)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "path": str(self.path),
            "added": self.added,
            "seen": self.seen,
            "skipped": self.skipped,
            "problems": list(self.problems),
            "days": list(self.days),
        }

    def summary(self) -> str:
        """Return what the build did as one line for a log."""
        line = f"{self.path}: {self.added} rows added of {self.seen} traces seen"
        return f"{line}, {self.skipped} skipped ({self.problems[0]})" if self.skipped else line

    def _repr_html_(self) -> str:
        """Show the newest rows in a notebook."""
        from html import escape

        frame = self.to_pandas()
        return f"<p>{escape(self.summary())}</p>" + str(frame.tail(10).to_html(escape=True))


def monitoring_table(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    path: str | Path,
    since: datetime | None = None,
    overlap_seconds: float = OVERLAP_SECONDS,
    rebuild: bool = False,
) -> MonitoringTable:
    """Bring the table at `path` up to date with the traces of MLflow's tracking server.

    Args:
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        path: Folder of the table, made if missing, or ``s3://bucket/prefix``; all builders of a
            table in a bucket share one runtime store.
        since: Ignore traces that began before, with time zone.
        overlap_seconds: How far before the last trace seen to look again.
        rebuild: Look at every trace again (after traces arrived late); rows stay unique.

    Raises:
        DataError: The folder holds something else, or a newer version's table.
        MlflowException: The tracking server cannot be read; nothing was changed.
    """
    place = open_place(path)
    try:
        with place.locked(LOCK_TIMEOUT_SECONDS):
            return _build(place, list_experiments(experiment_ids), since, overlap_seconds, rebuild)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=place.where) from error


def read_table(
    path: str | Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return the rows with ``since <= event_time < until``, oldest first; other days stay unread.

    Args:
        path: Folder or S3 address of the table.
        since: The first moment.
        until: The moment after the last.
        columns: Only these (and `event_time` and `trace_id`); the texts are most of the table.

    Raises:
        DataError: There is no table at `path`, a file of it cannot be read, or it has no such
            column.
    """
    place = open_place(path)
    names = None if columns is None else {"event_time", "trace_id", *columns}
    with all_fetched(place, _files(place, "", since, until)) as files:
        frame = read_rows(files, names=names)
    return _between(frame, since, until).sort_values(
        ["event_time", "trace_id"], kind="stable", ignore_index=True
    )


def read_steps(
    path: str | Path, *, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Return the steps of the requests with ``since <= event_time < until``, oldest first.

    Raises:
        DataError: As `read_table`.
    """
    import pyarrow as pa

    place = open_place(path)
    names = _files(place, _STEPS_FOLDER, since, until)
    with all_fetched(place, names) as files:
        tables = [read_columns(file, STEP_COLUMNS, STEPS_SCHEMA_VERSION) for file in files]
    frame: pd.DataFrame = pa.concat_tables(
        [table.replace_schema_metadata(None) for table in tables]
        or [step_schema().empty_table().replace_schema_metadata(None)]
    ).to_pandas()
    return _between(frame, since, until).sort_values(
        ["event_time", "trace_id", "step"], kind="stable", ignore_index=True
    )


def _between(frame: pd.DataFrame, since: datetime | None, until: datetime | None) -> pd.DataFrame:
    if since is not None:
        frame = frame[frame["event_time"] >= since]
    if until is not None:
        frame = frame[frame["event_time"] < until]
    return frame


def _files(place: Place, inside: str, since: datetime | None, until: datetime | None) -> list[str]:
    if not place.exists():
        raise DataError("no monitoring table here", where=place.where)
    return [
        name
        for day, name in _days(place, inside)
        if (since is None or day >= since.astimezone(timezone.utc).date())
        and (until is None or day <= until.astimezone(timezone.utc).date())
    ]


def add_rows(place: Place | Path, rows: Iterable[Mapping[str, Any]], days: set[str]) -> int:
    """Add `rows` to their days and return how many were new; the days changed go into `days`.

    The caller holds the table's lock.
    """
    return _add(
        _place(place), "", rows, days, read_arrow, rows_to_arrow, ("event_time", "trace_id")
    )


def add_steps(place: Place | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add the rows of steps to their days; steps of a request that has some already are left out.

    The caller holds the table's lock.
    """
    _add(
        _place(place),
        f"{_STEPS_FOLDER}/",
        rows,
        set(),
        lambda file: read_columns(file, STEP_COLUMNS, STEPS_SCHEMA_VERSION),
        steps_to_arrow,
        ("event_time", "trace_id", "step"),
    )


def _place(place: Place | Path) -> Place:
    return FolderPlace(place) if isinstance(place, Path) else place


def _add(
    place: Place,
    inside: str,
    rows: Iterable[Mapping[str, Any]],
    days: set[str],
    read: Callable[[Path], pa.Table],
    make: Callable[[Iterable[Mapping[str, Any]]], pa.Table],
    order: tuple[str, ...],
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_day: dict[date, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for row in rows:
        day = by_day.setdefault(row["event_time"].date(), {})
        day.setdefault(row["trace_id"], {})[row.get("step", 0)] = row
    added = 0
    for day_of, found in sorted(by_day.items()):
        name = f"{inside}day={day_of.isoformat()}/{_DAY_FILE}"
        tables = []
        with place.fetched(name) as file:
            if file is not None:
                old = read(file)
                for trace_id in old.column("trace_id").to_pylist():
                    found.pop(trace_id, None)
                tables.append(old)
        if not found:
            continue
        new = [row for rows_of in found.values() for row in rows_of.values()]
        tables.append(make(new))
        table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in order])
        place.put(name, partial(pq.write_table, table))
        added += len(new)
        days.add(day_of.isoformat())
    return added


def _build(
    place: Place,
    experiments: Sequence[str],
    since: datetime | None,
    overlap_seconds: float,
    rebuild: bool,  # noqa: FBT001 - private, named by its one caller
) -> MonitoringTable:
    state = _read_state(place)
    floor = 0 if since is None else int(since.timestamp() * 1000)
    overlap = int(overlap_seconds * 1000)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    days: set[str] = set()
    seen = added = 0
    steps: list[dict[str, Any]] = []
    positions = dict(state)
    today = utc_now().astimezone(timezone.utc).date()
    for experiment in experiments:
        position = state.get(experiment, {"last_ms": 0, "ids": [], "day": None, "late": []})
        known = set() if rebuild else set(position["ids"])
        start = floor if rebuild else max(floor, position["last_ms"] - overlap)
        last = position["last_ms"]
        # A trace from a clock that runs ahead must not hide those that come after it.
        now = int(utc_now().timestamp() * 1000)
        recent: dict[str, int] = {}
        late: list[str] = []
        found = chain(
            iter_traces(experiment, start),
            () if rebuild else _late_traces(experiment, position["day"], today, position["late"]),
        )
        for info in found:
            seen += 1
            last = max(last, min(now, info.request_time))
            if info.trace_metadata.get(DELIVERED_DAY_KEY) == today.isoformat():
                late.append(info.trace_id)
            summary = summary_of(info)
            if summary is None or info.trace_metadata.get("mlflow.sourceRun"):
                continue
            if info.tags.get(NO_TRAFFIC_TAG):
                continue
            recent[info.trace_id] = info.request_time
            if info.trace_id in known:
                continue
            try:
                row = row_from_summary(summary, trace_id=info.trace_id)
                kept = summary_of(info, STEPS_KEY)
                steps.extend([] if kept is None else rows_from_steps(kept, row))
                rows.append(row)
            except DataError as error:
                problems.append(str(error))
            if len(rows) >= _BATCH_ROWS:
                add_steps(place, steps)
                added += add_rows(place, rows, days)
                rows.clear()
                steps.clear()
        positions[experiment] = {
            "last_ms": last,
            "ids": sorted(name for name, begun in recent.items() if begun >= last - overlap),
            "day": today.isoformat(),
            "late": sorted(late),
        }
    add_steps(place, steps)
    added += add_rows(place, rows, days)
    _write_state(place, positions)
    for problem in problems[:_SHOWN_PROBLEMS]:
        _logger.warning("Skipped a request: %s", problem)
    return MonitoringTable(
        path=place.folder if isinstance(place, FolderPlace) else place.where,
        added=added,
        seen=seen,
        skipped=len(problems),
        problems=tuple(problems[:_SHOWN_PROBLEMS]),
        days=tuple(sorted(days)),
    )


def iter_traces(experiment: str, start_ms: int) -> Iterator[Any]:
    """Yield trace infos of `experiment` from `start_ms` on, oldest first.

    Pages follow the time, not an offset: a page costs the same wherever it lies. Only where one
    millisecond fills a whole page does MLflow's page token take over.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    cursor, token = start_ms, None
    at_cursor: set[str] = set()
    while True:
        page = client.search_traces(
            locations=[experiment],
            filter_string=f"attributes.timestamp_ms >= {cursor}",
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


def _late_traces(
    experiment: str, last_day: str | None, today: date, known: Sequence[str]
) -> Iterator[Any]:
    """Yield the traces that waited in a spool and arrived since the last build's day."""
    from mlflow import MlflowClient

    if last_day is None:
        return  # the first build reads everything anyway
    client, seen = MlflowClient(), set(known)
    # A server in another place may be a day ahead or behind.
    day = date.fromisoformat(last_day) - timedelta(days=1)
    while day <= today + timedelta(days=1):
        token = None
        while True:
            page = client.search_traces(
                locations=[experiment],
                filter_string=f"metadata.`{DELIVERED_DAY_KEY}` = '{day.isoformat()}'",
                max_results=_PAGE_SIZE,
                page_token=token,
                include_spans=False,
            )
            yield from (trace.info for trace in page if trace.info.trace_id not in seen)
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
    from mlflow import MlflowClient

    client, token = MlflowClient(), None
    found: list[str] = []
    while True:
        page = client.search_experiments(page_token=token)
        found.extend(experiment.experiment_id for experiment in page)
        if not page.token:
            return found
        token = page.token


def _days(place: Place, inside: str) -> list[tuple[date, str]]:
    """Return each day that stands in the table, with the name of its file."""
    days = []
    above = f"{inside}/" if inside else ""
    for name in place.holding(_DAY_FILE, inside):
        if name.startswith("day="):
            try:
                days.append((date.fromisoformat(name[4:]), f"{above}{name}/{_DAY_FILE}"))
            except ValueError as error:
                where = f"{place.where}/{above}{name}"
                raise DataError("is not a day of a monitoring table", where=where) from error
    return sorted(days)


def _read_state(place: Place) -> dict[str, dict[str, Any]]:
    where = f"{place.where}/{_STATE_FILE}"
    with place.fetched(_STATE_FILE) as file:
        if file is None:
            return {}
        text = file.read_text(encoding="utf-8")
    try:
        state = json.loads(text)
        version = int(state["schema_version"])
        positions = {
            str(name): {
                "last_ms": int(at["last_ms"]),
                "ids": [str(item) for item in at["ids"]],
                "day": at.get("day"),
                "late": [str(item) for item in at.get("late", ())],
            }
            for name, at in state["experiments"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "is not the state of a monitoring table",
            where=where,
            hint="Delete the file: the next build looks at every trace again.",
        ) from error
    if version > SCHEMA_VERSION:
        raise DataError(f"has schema {version}, this version writes {SCHEMA_VERSION}", where=where)
    return positions


def _write_state(place: Place, positions: Mapping[str, Mapping[str, Any]]) -> None:
    text = json.dumps({"schema_version": SCHEMA_VERSION, "experiments": positions}, sort_keys=True)
    place.put(_STATE_FILE, lambda file: file.write_text(text + "\n", encoding="utf-8"))
