"""Builds the monitoring table on Spark: tasks make the files of days, the driver puts them there.

Rules:
- First each task reads the traces of one span of time, at most a day unless there are very many,
  then each task makes the new files of one day. Rows are read, made and merged by the functions a
  build in one process uses, so the table is the same byte for byte.
- A task never writes into the table. It writes files of its own below ``_building/`` and answers
  with their names; of a task that ran twice one answer counts. The driver, who holds the table's
  lock, moves the files to their places when every task has answered, steps before requests, and
  the state is written last. So an executor that is killed changes no result, nor does one that was
  given up and goes on writing.
- An executor that does not see what the driver sees makes the build fail, never a smaller table:
  a tracking store in a file counts only where all executors run on the driver's machine, and each
  task looks for the file with which the driver marked the place.
- Credentials do not travel: executors have them in their own environment.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import AgentError, ConfigError, DataError
from mlflow_agent_plugin.observability.days import REQUESTS, STEPS, Kind, rows_by_day, with_new
from mlflow_agent_plugin.observability.place import (
    LEASE_SECONDS,
    FolderPlace,
    Place,
    all_fetched,
    open_place,
)
from mlflow_agent_plugin.observability.reading import Plan, Reading, iter_traces, late_traces
from mlflow_agent_plugin.observability.spark import spark_session

_FOLDER = "_building"
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_MOST_SPANS = 2000  # one trace from a clock at 1970 must not make a task per day since then
_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Site:
    """What every task of a build needs to know.

    Attributes:
        where: The table's place.
        folder: Where this build's files wait, below it.
        tracking_uri: The tracking server.
        workspace: Its workspace, if it has such.
    """

    where: str
    folder: str
    tracking_uri: str
    workspace: str | None

    @property
    def mark(self) -> str:
        """Name of the file by which a task knows that it sees the driver's place."""
        return f"{self.folder}/here"


@dataclass(frozen=True)
class Span:
    """Traces for one task to read: those of a time, or those that came late.

    Attributes:
        plan: The experiment's plan, without its known ids.
        start_ms: Milliseconds since 1970; None: the late traces.
        end_ms: Likewise, excluded; None: no end.
    """

    plan: Plan
    start_ms: int | None
    end_ms: int | None


@dataclass(frozen=True)
class Parts:
    """Files with the rows of one day, for one task to add to that day."""

    day: date
    requests: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """The new files of one day, None where nothing is new, and the number of new requests."""

    day: date
    requests: str | None
    steps: str | None
    added: int


def build_on_spark(
    place: Place, plans: Sequence[Plan], days: set[str]
) -> tuple[list[Reading], int]:
    """Read what `plans` ask for and add it to the table; the caller holds its lock.

    Returns:
        What was found for each plan, and how many rows were added; the days changed go into `days`.

    Raises:
        ConfigError: Spark is not installed, or its executors cannot read the traces.
        DataError: A task failed; the table is as it was.
        MlflowException: The tracking server cannot be read; the table is as it was.
    """
    import mlflow
    from mlflow.utils.workspace_context import get_request_workspace

    session = spark_session("mlflow-agents monitor")
    context = session.sparkContext
    site = Site(
        where=str(place.folder.absolute()) if isinstance(place, FolderPlace) else place.where,
        folder=f"{_FOLDER}/{uuid.uuid4().hex}",
        tracking_uri=uri_for_executors(mlflow.get_tracking_uri(), str(context.master)),
        workspace=get_request_workspace(),
    )
    spans = [span for plan in plans for span in _spans(plan, int(context.defaultParallelism))]
    place.clear(_FOLDER)  # what a builder that was killed left
    place.put(site.mark, lambda file: file.write_text("The driver was here.\n", encoding="utf-8"))
    known = context.broadcast({plan.experiment: plan.known for plan in plans})
    try:
        found = _run(context, place, site, partial(read_span, site, known), spans)
        readings = {plan.experiment: Reading() for plan in plans}
        parts: dict[date, tuple[list[str], list[str]]] = {}
        for span, (reading, files) in zip(spans, found, strict=True):
            readings[span.plan.experiment].add(reading)
            for day, requests, steps in files:
                of_day = parts.setdefault(day, ([], []))
                of_day[0].append(requests)
                of_day[1].extend([] if steps is None else [steps])
        tasks = [Parts(day, tuple(r), tuple(s)) for day, (r, s) in sorted(parts.items())]
        made: list[Made] = _run(context, place, site, partial(make_day, site), tasks)
        for new in made:
            if new.steps is not None:
                place.move(new.steps, STEPS.file_of(new.day))
            if new.requests is not None:
                place.move(new.requests, REQUESTS.file_of(new.day))
                days.add(new.day.isoformat())
    finally:
        known.destroy()
        place.clear(site.folder)
    return [readings[plan.experiment] for plan in plans], sum(new.added for new in made)


def uri_for_executors(tracking_uri: str, master: str) -> str:
    """Return the tracking URI under which executors find the traces this process finds.

    Raises:
        ConfigError: It is a file of this machine, and executors run on others; or it is in memory.
    """
    scheme, found, _ = tracking_uri.partition(":")
    on_disk = not found or scheme == "file" or scheme.startswith("sqlite")
    if not on_disk or tracking_uri.startswith("databricks"):
        return tracking_uri
    if not master.startswith("local"):
        raise ConfigError(
            f"{tracking_uri} is a file of this machine, which executors of {master} do not see",
            where="the tracking URI",
            hint="Set MLFLOW_TRACKING_URI to a tracking server (http://…) or a database server.",
        )
    if not scheme.startswith("sqlite"):
        from mlflow.utils.file_utils import local_file_uri_to_path

        return Path(local_file_uri_to_path(tracking_uri)).absolute().as_uri()
    from sqlalchemy.engine import make_url

    url = make_url(tracking_uri)
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            f"{tracking_uri} lies in this process's memory, which executors do not see",
            where="the tracking URI",
            hint="Set MLFLOW_TRACKING_URI to a file, a tracking server or a database server.",
        )
    # Executors run in folders of their own.
    absolute = url.set(database=str(Path(url.database).absolute()))
    return absolute.render_as_string(hide_password=False)


def _spans(plan: Plan, cores: int) -> Iterator[Span]:
    """Cut what a plan asks for into tasks; the last one has no end, for clocks that run ahead."""
    plan = replace(plan, known=frozenset())
    first = next(iter_traces(plan.experiment, plan.start_ms), None)
    if first is not None:
        begin = int(first.request_time)
        length = _DAY_MS if plan.now_ms - begin >= cores * _DAY_MS else _HOUR_MS
        while (plan.now_ms - begin) // length >= _MOST_SPANS:
            length *= 2
        cuts = range((begin // length + 1) * length, plan.now_ms, length)
        for start, end in zip([begin, *cuts], [*cuts, None], strict=True):
            yield Span(plan, start, end)
    if plan.late_from is not None:
        yield Span(plan, None, None)


def read_span(
    site: Site, known: Any, span: Span
) -> tuple[Reading, list[tuple[date, str, str | None]]]:
    """Read the traces of a span: what was found, and for each day the files with its rows.

    Args:
        site: The build.
        known: Broadcast: ids that need not be read again, by experiment.
        span: What to read.

    Raises:
        DataError: This executor does not see the table's place.
    """
    from mlflow import MlflowClient

    place = _open(site)
    client = MlflowClient(tracking_uri=site.tracking_uri)
    reading = Reading()
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    files: list[tuple[date, str, str | None]] = []

    def write() -> None:
        steps_by_day = rows_by_day(steps)
        for day, found in sorted(rows_by_day(rows).items()):
            of_steps = steps_by_day.get(day)
            files.append((
                day,
                _put(place, site, REQUESTS.make(found)),
                None if of_steps is None else _put(place, site, STEPS.make(of_steps)),
            ))  # fmt: skip
        rows.clear()
        steps.clear()

    with _workspace(site.workspace):
        if span.start_ms is None:
            infos = late_traces(span.plan, client=client)
        else:
            infos = iter_traces(span.plan.experiment, span.start_ms, span.end_ms, client=client)
        for row, steps_of in reading.rows(span.plan, infos, known.value[span.plan.experiment]):
            rows.append(row)
            steps.extend(steps_of)
            if len(rows) >= _BATCH_ROWS:
                write()
    write()
    reading.forget(span.plan.overlap_ms)
    return reading, files


def make_day(site: Site, parts: Parts) -> Made:
    """Make the new files of a day.

    Raises:
        DataError: This executor does not see the table's place, or a file cannot be read.
    """
    place = _open(site)
    steps, _ = _made(place, site, STEPS, parts.day, parts.steps)
    requests, added = _made(place, site, REQUESTS, parts.day, parts.requests)
    return Made(parts.day, requests, steps, added)


def _made(
    place: Place, site: Site, kind: Kind, day: date, names: Sequence[str]
) -> tuple[str | None, int]:
    import pyarrow as pa

    if not names:
        return None, 0
    with all_fetched(place, list(names)) as files:
        if len(files) < len(names):
            raise DataError(
                "another process took over the building of this table", where=site.where
            )
        rows = pa.concat_tables([kind.read(file) for file in files])
    table, new = with_new(place, kind, day, rows)
    return (_put(place, site, table), new) if new else (None, 0)


def _put(place: Place, site: Site, table: Any) -> str:
    """Write a file under a name that no other task and no other try of this one uses."""
    import pyarrow.parquet as pq

    name = f"{site.folder}/{uuid.uuid4().hex}.parquet"
    place.put(name, partial(pq.write_table, table))
    return name


def _open(site: Site) -> Place:
    place = open_place(site.where)
    with place.fetched(site.mark) as mark:
        if mark is None:
            raise DataError(
                "an executor does not see the table's place as the driver does",
                where=site.where,
                hint="Give a folder that all machines share, or s3://bucket/prefix.",
            )
    return place


def _workspace(name: str | None) -> Any:
    from mlflow.utils.workspace_context import WorkspaceContext

    return nullcontext() if name is None else WorkspaceContext(name)


def _run(
    context: Any, place: Place, site: Site, work: Callable[[Any], Any], tasks: Sequence[Any]
) -> list[Any]:
    """Run each task on Spark and return the answers in order; the table's lock stays alive."""
    from py4j.protocol import Py4JError

    if not tasks:
        return []

    def job() -> list[Any]:
        context.setJobGroup(site.folder, f"monitoring table {site.where}", interruptOnCancel=True)
        return list(context.parallelize(tasks, len(tasks)).map(partial(_answered, work)).collect())

    with ThreadPoolExecutor(1, thread_name_prefix="spark") as threads:
        running = threads.submit(job)
        try:
            while not wait([running], timeout=LEASE_SECONDS / 5).done:
                place.renew()
        except BaseException:
            context.cancelJobGroup(site.folder)
            raise
    try:
        answers = running.result()
    except Py4JError as error:
        told = str(error).partition("\n")[2].partition("\n")[0] or str(error)
        raise DataError(f"Spark did not finish the build: {told}", where=site.where) from error
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _answered(work: Callable[[Any], Any], task: Any) -> Any:
    """Return what `work` says; what is wrong the next try would find too, so it is an answer."""
    try:
        return work(task)
    except AgentError as error:
        return error
    except Exception as error:
        from mlflow.exceptions import MlflowException  # a day is made without it

        if not isinstance(error, MlflowException):
            raise
        return MlflowException(str(error.message))
