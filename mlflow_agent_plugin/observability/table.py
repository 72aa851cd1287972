"""The monitoring table: one row per request, parquet by day, built from MLflow traces.

Layout: ``<path>/day=2026-01-31/part.parquet`` (UTC days of `event_time`, one file each, readable by
pandas, DuckDB and Spark), the same below ``<path>/_steps`` with one row per step, and
``<path>/_state.json`` (how far each experiment has been read).

Rules:
- Building twice gives the same table: a trace id stands in its day's file once, whatever happens.
- It lies in a folder or in an S3 bucket (see `place`). A crash leaves whole files; the state is
  written last: a build after a crash reads the traces again and adds what is missing.
- One builder at a time: a second one waits for the first. What Spark does for it: `spark_build`.
- A build costs what is new: it asks for traces from the last one seen, less `overlap_seconds` for
  requests that began earlier and ended later, and rewrites only the days that got new rows.
- Traces that waited in a spool arrive later than that. They say on which day they came, and a build
  asks for those of the days since the last one.
- Traces of runs (evaluations, notebooks inside `mlflow.start_run`) are not traffic, nor are those
  with the tag `NO_TRAFFIC_TAG` (versions on trial).
- A trace whose summary makes no sense is counted and named, never guessed at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import ConfigError, DataError
from mlflow_agent_plugin.observability.days import (
    REQUESTS,
    STEPS,
    Kind,
    add_rows,
    add_steps,
    day_files,
)
from mlflow_agent_plugin.observability.place import FolderPlace, Place, all_fetched, open_place
from mlflow_agent_plugin.observability.reading import (
    NOWHERE,
    Plan,
    Reading,
    iter_traces,
    late_traces,
    list_experiments,
)
from mlflow_agent_plugin.observability.schema import SCHEMA_VERSION, read_rows
from mlflow_agent_plugin.observability.steps import step_schema

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

Engine = Literal["local", "spark"]
OVERLAP_SECONDS = 3600.0
LOCK_TIMEOUT_SECONDS = 600.0
_BATCH_ROWS = 50_000
_STATE_FILE = "_state.json"


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
    engine: Engine = "local",
) -> MonitoringTable:
    """Bring the table at `path` up to date with the traces of MLflow's tracking server.

    Args:
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        path: Folder of the table, made if missing, or ``s3://bucket/prefix``; all builders of a
            table in a bucket share one runtime store.
        since: Ignore traces that began before, with time zone.
        overlap_seconds: How far before the last trace seen to look again.
        rebuild: Look at every trace again (after traces arrived late); rows stay unique.
        engine: "local" in this process, or "spark" on a cluster; the table is the same.

    Raises:
        ConfigError: There is no such engine, or Spark's executors cannot read the traces.
        DataError: The folder holds something else, or a newer version's table.
        MlflowException: The tracking server cannot be read; nothing was changed.
    """
    if engine not in get_args(Engine):
        raise ConfigError(
            f"there is no engine {engine!r}",
            where="engine",
            hint=f"Use {' or '.join(get_args(Engine))}.",
        )
    place = open_place(path)
    try:
        with place.locked(LOCK_TIMEOUT_SECONDS):
            ids = list_experiments(experiment_ids)
            return _build(place, ids, since, overlap_seconds, rebuild, engine)
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
    with all_fetched(place, _files(place, REQUESTS, since, until)) as files:
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
    names = _files(place, STEPS, since, until)
    with all_fetched(place, names) as files:
        tables = [STEPS.read(file) for file in files]
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


def _files(place: Place, kind: Kind, since: datetime | None, until: datetime | None) -> list[str]:
    if not place.exists():
        raise DataError("no monitoring table here", where=place.where)
    return [
        name
        for day, name in day_files(place, kind)
        if (since is None or day >= since.astimezone(timezone.utc).date())
        and (until is None or day <= until.astimezone(timezone.utc).date())
    ]


def _build(
    place: Place,
    experiments: Sequence[str],
    since: datetime | None,
    overlap_seconds: float,
    rebuild: bool,  # noqa: FBT001 - private, named by its one caller
    engine: Engine,
) -> MonitoringTable:
    state = _read_state(place)
    plans = [
        Plan.after(
            state.get(experiment, NOWHERE),
            experiment,
            now=utc_now(),
            floor_ms=0 if since is None else int(since.timestamp() * 1000),
            overlap_ms=int(overlap_seconds * 1000),
            rebuild=rebuild,
        )
        for experiment in experiments
    ]
    days: set[str] = set()
    if engine == "spark":
        from mlflow_agent_plugin.observability.spark_build import build_on_spark

        readings, added = build_on_spark(place, plans, days)
    else:
        readings, added = _build_here(place, plans, days)
    found = Reading()
    for plan, reading in zip(plans, readings, strict=True):
        state[plan.experiment] = plan.position(reading)
        found.add(reading)
    _write_state(place, state)
    for problem in found.problems:
        _logger.warning("Skipped a request: %s", problem)
    return MonitoringTable(
        path=place.folder if isinstance(place, FolderPlace) else place.where,
        added=added,
        seen=found.seen,
        skipped=found.skipped,
        problems=tuple(found.problems),
        days=tuple(sorted(days)),
    )


def _build_here(place: Place, plans: Sequence[Plan], days: set[str]) -> tuple[list[Reading], int]:
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    readings = []
    added = 0
    for plan in plans:
        reading = Reading()
        infos = chain(iter_traces(plan.experiment, plan.start_ms), late_traces(plan))
        for row, steps_of in reading.rows(plan, infos, plan.known):
            rows.append(row)
            steps.extend(steps_of)
            if len(rows) >= _BATCH_ROWS:
                add_steps(place, steps)
                added += add_rows(place, rows, days)
                rows.clear()
                steps.clear()
        readings.append(reading)
    add_steps(place, steps)
    added += add_rows(place, rows, days)
    return readings, added


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
