"""The monitoring table: one row per request, parquet by day, built from MLflow traces.

Layout: ``<path>/day=2026-01-31/part.parquet`` (UTC days of `event_time`, one file each, readable by
pandas, DuckDB and Spark) and ``<path>/_state.json`` (how far each experiment has been read).

Rules:
- Building twice gives the same table: a trace id stands in its day's file once, whatever happens.
- A crash leaves whole files only: each day is written beside its place and renamed, the state last.
  A build after a crash reads the traces again and adds what is missing.
- A build costs what is new: it asks for traces from the last one seen, less `overlap_seconds` for
  requests that began earlier and ended later, and rewrites only the days that got new rows.
- Traces of runs (evaluations, notebooks inside `mlflow.start_run`) are not traffic.
- A trace whose summary makes no sense is counted and named, never guessed at.
- One builder at a time: a second one waits for the first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.schema import (
    SCHEMA_VERSION,
    SUMMARY_KEY,
    read_arrow,
    read_rows,
    row_from_summary,
    rows_to_arrow,
)

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

OVERLAP_SECONDS = 3600.0
LOCK_TIMEOUT_SECONDS = 600.0
_PAGE_SIZE = 1000
_BATCH_ROWS = 50_000
_STATE_FILE = "_state.json"
_LOCK_FILE = "_lock"
_DAY_FILE = "part.parquet"
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class MonitoringTable:
    """A monitoring table on disk, and what the last build did.

    Attributes:
        path: Folder of the table.
        added: Rows the build added.
        seen: Traces the build looked at.
        skipped: Traces with a summary that made no sense.
        problems: What was wrong with the first of them.
        days: Days the build changed, ISO dates in order.
    """

    path: Path
    added: int = 0
    seen: int = 0
    skipped: int = 0
    problems: tuple[str, ...] = ()
    days: tuple[str, ...] = ()

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
        path: Folder of the table; made if missing.
        since: Ignore traces that began before, with time zone.
        overlap_seconds: How far before the last trace seen to look again.
        rebuild: Look at every trace again (after traces arrived late); rows stay unique.

    Raises:
        DataError: The folder holds something else, or a newer version's table.
        MlflowException: The tracking server cannot be read; nothing was changed.
    """
    from filelock import FileLock, Timeout

    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK_FILE, timeout=LOCK_TIMEOUT_SECONDS):
            return _build(folder, list_experiments(experiment_ids), since, overlap_seconds, rebuild)
    except Timeout as error:
        raise DataError(
            "another process has been building this table", where=str(folder)
        ) from error
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=str(folder)) from error


def read_table(
    path: str | Path, *, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Return the rows with ``since <= event_time < until``, oldest first; other days stay unread.

    Raises:
        DataError: There is no table at `path`, or a file of it cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError("no monitoring table here", where=str(folder))
    days = [
        (day, file)
        for day, file in _days(folder)
        if (since is None or day >= since.astimezone(timezone.utc).date())
        and (until is None or day <= until.astimezone(timezone.utc).date())
    ]
    frame = read_rows([file for _, file in days])
    if since is not None:
        frame = frame[frame["event_time"] >= since]
    if until is not None:
        frame = frame[frame["event_time"] < until]
    return frame.sort_values(["event_time", "trace_id"], kind="stable", ignore_index=True)


def add_rows(path: Path, rows: Iterable[Mapping[str, Any]], days: set[str]) -> int:
    """Add `rows` to their days and return how many were new; the days changed go into `days`.

    The caller holds the table's lock.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_day: dict[date, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_day.setdefault(row["event_time"].date(), {})[row["trace_id"]] = row
    added = 0
    for day, found in sorted(by_day.items()):
        file = path / f"day={day.isoformat()}" / _DAY_FILE
        tables = []
        if file.exists():
            old = read_arrow(file)
            for trace_id in old.column("trace_id").to_pylist():
                found.pop(trace_id, None)
            tables.append(old)
        if not found:
            continue
        tables.append(rows_to_arrow(found.values()))
        table = pa.concat_tables(tables).sort_by(
            [("event_time", "ascending"), ("trace_id", "ascending")]
        )
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f"_{_DAY_FILE}.tmp")
        pq.write_table(table, temporary)
        temporary.replace(file)
        added += len(found)
        days.add(day.isoformat())
    return added


def _build(
    folder: Path,
    experiments: Sequence[str],
    since: datetime | None,
    overlap_seconds: float,
    rebuild: bool,  # noqa: FBT001 - private, named by its one caller
) -> MonitoringTable:
    state = _read_state(folder)
    floor = 0 if since is None else int(since.timestamp() * 1000)
    overlap = int(overlap_seconds * 1000)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    days: set[str] = set()
    seen = added = 0
    positions = dict(state)
    for experiment in experiments:
        position = state.get(experiment, {"last_ms": 0, "ids": []})
        known = set() if rebuild else set(position["ids"])
        start = floor if rebuild else max(floor, position["last_ms"] - overlap)
        last = position["last_ms"]
        # A trace from a clock that runs ahead must not hide those that come after it.
        now = int(utc_now().timestamp() * 1000)
        recent: dict[str, int] = {}
        for info in iter_traces(experiment, start):
            seen += 1
            last = max(last, min(now, info.request_time))
            summary = info.trace_metadata.get(SUMMARY_KEY)
            if summary is None or info.trace_metadata.get("mlflow.sourceRun"):
                continue
            recent[info.trace_id] = info.request_time
            if info.trace_id in known:
                continue
            try:
                rows.append(row_from_summary(summary, trace_id=info.trace_id))
            except DataError as error:
                problems.append(str(error))
            if len(rows) >= _BATCH_ROWS:
                added += add_rows(folder, rows, days)
                rows.clear()
        positions[experiment] = {
            "last_ms": last,
            "ids": sorted(name for name, begun in recent.items() if begun >= last - overlap),
        }
    added += add_rows(folder, rows, days)
    _write_state(folder, positions)
    for problem in problems[:_SHOWN_PROBLEMS]:
        _logger.warning("Skipped a request: %s", problem)
    return MonitoringTable(
        path=folder,
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


def _days(folder: Path) -> list[tuple[date, Path]]:
    days = []
    for child in folder.iterdir():
        if child.name.startswith("day=") and (child / _DAY_FILE).is_file():
            try:
                days.append((date.fromisoformat(child.name[4:]), child / _DAY_FILE))
            except ValueError as error:
                raise DataError("is not a day of a monitoring table", where=str(child)) from error
    return sorted(days)


def _read_state(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / _STATE_FILE
    if not file.exists():
        return {}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        version = int(state["schema_version"])
        positions = {
            str(name): {"last_ms": int(at["last_ms"]), "ids": [str(item) for item in at["ids"]]}
            for name, at in state["experiments"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "is not the state of a monitoring table",
            where=str(file),
            hint="Delete the file: the next build looks at every trace again.",
        ) from error
    if version > SCHEMA_VERSION:
        raise DataError(
            f"has schema {version}, this version writes {SCHEMA_VERSION}", where=str(file)
        )
    return positions


def _write_state(folder: Path, positions: Mapping[str, Mapping[str, Any]]) -> None:
    text = json.dumps({"schema_version": SCHEMA_VERSION, "experiments": positions}, sort_keys=True)
    temporary = folder / f"{_STATE_FILE}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / _STATE_FILE)
