"""The files of a monitoring table: one per UTC day for requests, one for their steps.

Rules:
- A trace id stands in its day's file once. What stands there stays; only traces it lacks are added.
- Rows lie in the order of their times, so that the same rows make the same file, however they came.
- A request's steps stand in the table before the request does: a crash between the two files makes
  the next build write both again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.place import FolderPlace, Place
from mlflow_agent_plugin.observability.schema import read_arrow, read_columns, rows_to_arrow
from mlflow_agent_plugin.observability.steps import (
    STEP_COLUMNS,
    STEPS_SCHEMA_VERSION,
    steps_to_arrow,
)

if TYPE_CHECKING:
    import pyarrow as pa

_DAY_FILE = "part.parquet"


@dataclass(frozen=True)
class Kind:
    """Requests, or their steps.

    Attributes:
        inside: Folder of the days, "" or with a slash at its end.
        order: Columns the rows are sorted by; they tell every row from every other.
        read: Reads a file of this kind.
        make: Makes an Arrow table of rows.
    """

    inside: str
    order: tuple[str, ...]
    read: Callable[[Path], pa.Table]
    make: Callable[[Iterable[Mapping[str, Any]]], pa.Table]

    def file_of(self, day: date) -> str:
        """Return the name of a day's file."""
        return f"{self.inside}day={day.isoformat()}/{_DAY_FILE}"


REQUESTS = Kind("", ("event_time", "trace_id"), read_arrow, rows_to_arrow)
STEPS = Kind(
    "_steps/",
    ("event_time", "trace_id", "step"),
    lambda file: read_columns(file, STEP_COLUMNS, STEPS_SCHEMA_VERSION),
    steps_to_arrow,
)


def add_rows(place: Place | Path, rows: Iterable[Mapping[str, Any]], days: set[str]) -> int:
    """Add `rows` to their days and return how many were new; the days changed go into `days`.

    The caller holds the table's lock.
    """
    return _add(place, REQUESTS, rows, days)


def add_steps(place: Place | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add the rows of steps to their days; steps of a request that has some already are left out.

    The caller holds the table's lock.
    """
    _add(place, STEPS, rows, set())


def _add(place: Place | Path, kind: Kind, rows: Iterable[Mapping[str, Any]], days: set[str]) -> int:
    import pyarrow.parquet as pq

    place = FolderPlace(place) if isinstance(place, Path) else place
    added = 0
    for day, found in sorted(rows_by_day(rows).items()):
        table, new = with_new(place, kind, day, kind.make(found))
        if new:
            place.put(kind.file_of(day), partial(pq.write_table, table))
            added += new
            days.add(day.isoformat())
    return added


def rows_by_day(rows: Iterable[Mapping[str, Any]]) -> dict[date, list[Mapping[str, Any]]]:
    """Return rows by the UTC day they belong to."""
    days: dict[date, list[Mapping[str, Any]]] = {}
    for row in rows:
        days.setdefault(row["event_time"].date(), []).append(row)
    return days


def with_new(place: Place, kind: Kind, day: date, rows: pa.Table) -> tuple[pa.Table, int]:
    """Return what a day's file holds once `rows` are added, and how many of them it lacked."""
    import pyarrow as pa

    tables = []
    there: set[str] = set()
    with place.fetched(kind.file_of(day)) as file:
        if file is not None:
            old = kind.read(file)
            there.update(old.column("trace_id").to_pylist())
            tables.append(old)
    ids = rows.column("trace_id").to_pylist()
    numbers = rows.column("step").to_pylist() if "step" in kind.order else [0] * len(ids)
    # Of a row that was read twice the last counts.
    chosen = {
        (trace_id, number): index
        for index, (trace_id, number) in enumerate(zip(ids, numbers, strict=True))
        if trace_id not in there
    }
    tables.append(rows.take(pa.array(chosen.values(), pa.int64())))
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in kind.order])
    return table, len(chosen)


def day_files(place: Place, kind: Kind) -> list[tuple[date, str]]:
    """Return each day that stands in the table, with the name of its file."""
    days = []
    for name in place.holding(_DAY_FILE, kind.inside.rstrip("/")):
        if name.startswith("day="):
            try:
                day = date.fromisoformat(name[4:])
            except ValueError as error:
                where = f"{place.where}/{kind.inside}{name}"
                raise DataError("is not a day of a monitoring table", where=where) from error
            days.append((day, kind.file_of(day)))
    return sorted(days)
