"""What the driver of a build on Spark does; on a real cluster: `development/test_spark.py`.

`Cluster` runs tasks in this process, pickled on their way there and back.
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.s3_server import object_keys
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.errors import ConfigError, DataError
from mlflow_agent_plugin.observability import spark_build, table
from mlflow_agent_plugin.observability.place import FolderPlace
from mlflow_agent_plugin.observability.reading import NOWHERE, Plan
from mlflow_agent_plugin.observability.spark_build import (
    Parts,
    Site,
    Span,
    make_day,
    read_span,
    uri_for_executors,
)
from mlflow_agent_plugin.observability.table import monitoring_table, read_table

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)


class Cluster:
    """The part of a Spark context that a build uses."""

    master, defaultParallelism = "local-cluster[2,1,1024]", 2  # noqa: N815 - Spark's name

    def __init__(self):
        self.cancelled = []

    def setJobGroup(self, *_, **__):  # noqa: N802 - Spark's name
        pass

    def cancelJobGroup(self, name):  # noqa: N802 - Spark's name
        self.cancelled.append(name)

    def broadcast(self, value):
        return SimpleNamespace(value=value, destroy=lambda: None)

    def parallelize(self, tasks, number):
        assert number == len(tasks)
        return SimpleNamespace(
            map=lambda work: SimpleNamespace(collect=lambda: self.run(work, tasks))
        )

    def run(self, work, tasks):
        return [copied(work(copied(task))) for task in tasks]


def copied(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()
    session = SimpleNamespace(sparkContext=found)
    monkeypatch.setattr(spark_build, "spark_session", lambda _: session)
    return found


def files(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "_lock"
    }


@pytest.fixture
def traffic_of_two_days(trace):
    start = datetime(2026, 3, 1, 23, 59, 58, tzinfo=timezone.utc)
    for number in range(4):
        trace(number=number, event_time=start + timedelta(seconds=number))


@pytest.mark.usefixtures("traffic_of_two_days")
def test_what_a_killed_builder_left_is_removed_and_nothing_else_stays(
    tracking, cluster, tmp_path, monkeypatch
):
    now = datetime.now(timezone.utc)
    monkeypatch.setattr(table, "utc_now", lambda: now)
    left = tmp_path / "there" / "_building" / "old" / "a.parquet"
    left.parent.mkdir(parents=True)
    left.write_text("half a file")
    built = monitoring_table(tracking, path="there", engine="spark")
    assert built.added == 4
    monitoring_table(tracking, path="here")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert monitoring_table(tracking, path="there", engine="spark").added == 0


@pytest.mark.usefixtures("traffic_of_two_days")
@pytest.mark.parametrize("name", ["read_span", "make_day"])
@pytest.mark.parametrize("error", [DataError("broken", where="a day"), MlflowException("away")])
def test_a_task_that_fails_leaves_the_table_as_it_was_and_says_why(
    tracking, trace, cluster, tmp_path, monkeypatch, name, error
):
    monitoring_table(tracking, path="t", engine="spark")
    before = files(tmp_path / "t")
    trace(number=9)

    def fails(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(spark_build, name, fails)
        with pytest.raises(type(error), match=r"broken|away"):
            monitoring_table(tracking, path="t", engine="spark")
    assert files(tmp_path / "t") == before
    assert monitoring_table(tracking, path="t", engine="spark").added == 1


def test_a_driver_that_dies_before_the_state_loses_and_doubles_nothing(
    tracking, traffic_of_two_days, cluster, tmp_path, monkeypatch
):
    moved = []
    real = FolderPlace.move

    def dies(self, name, to):
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(to)
        real(self, name, to)

    with monkeypatch.context() as patched:
        patched.setattr(FolderPlace, "move", dies)
        with pytest.raises(KeyboardInterrupt):
            monitoring_table(tracking, path="t", engine="spark")
    assert sorted(files(tmp_path / "t")) == moved
    assert monitoring_table(tracking, path="t", engine="spark").added == 2
    assert len(read_table("t")) == 4


def test_the_lock_is_kept_while_tasks_run_and_a_builder_that_lost_it_ends_them(
    tracking, traffic_of_two_days, cluster, tmp_path, monkeypatch
):
    renewed = threading.Event()

    def run(work, tasks):
        assert renewed.wait(60)
        return Cluster.run(cluster, work, tasks)

    cluster.run = run
    monkeypatch.setattr(spark_build, "LEASE_SECONDS", 0.01)
    monkeypatch.setattr(FolderPlace, "renew", lambda _: renewed.set())
    assert monitoring_table(tracking, path="t", engine="spark").added == 4
    assert not cluster.cancelled
    renewed.clear()

    def lost(_):
        renewed.set()
        raise DataError("another process took over")

    monkeypatch.setattr(FolderPlace, "renew", lost)
    with pytest.raises(DataError, match="took over"):
        monitoring_table(tracking, path="new", engine="spark")
    assert cluster.cancelled
    assert files(tmp_path / "new") == {}


@pytest.mark.integration
@pytest.mark.usefixtures("traffic_of_two_days")
def test_a_table_in_a_bucket_is_the_one_a_process_builds_in_a_folder(
    tracking, cluster, s3_bucket, s3_server
):
    uri = f"s3://{s3_bucket}/traffic"
    there = monitoring_table(tracking, path=uri, engine="spark")
    here = monitoring_table(tracking, path="here")
    assert there.to_pandas().equals(here.to_pandas())
    assert there.days == here.days == ("2026-03-01", "2026-03-02")
    assert not [key for key in object_keys(s3_server.client(), s3_bucket) if "_building" in key]


def plan(**position):
    return Plan.after(
        {**NOWHERE, **position}, "1", now=NOW, floor_ms=0, overlap_ms=HOUR, rebuild=False
    )


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match="local or spark"):
        monitoring_table([], path=tmp_path, engine="flink")
    assert not list(tmp_path.glob("_*"))


@pytest.mark.parametrize(
    "uri", ["https://mlflow.example", "postgresql://u:p@db/mlflow", "databricks", "databricks://p"]
)
@pytest.mark.parametrize("master", ["local[2]", "spark://one:7077"])
def test_a_tracking_server_is_named_to_executors_as_it_is(uri, master):
    assert uri_for_executors(uri, master) == uri


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "./mlruns", "file:///srv/mlruns"])
@pytest.mark.parametrize("master", ["spark://one:7077", "yarn", "k8s://https://one"])
def test_a_tracking_store_in_a_file_is_refused_where_executors_may_run_elsewhere(uri, master):
    with pytest.raises(ConfigError, match="do not see") as problem:
        uri_for_executors(uri, master)
    assert "MLFLOW_TRACKING_URI" in str(problem.value)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_tracking_store_in_memory_is_refused_everywhere(uri):
    with pytest.raises(ConfigError, match="memory"):
        uri_for_executors(uri, "local[2]")


def test_executors_of_this_machine_get_the_whole_path_of_a_tracking_store():
    here = Path.cwd()
    assert uri_for_executors("sqlite:///mlflow.db", "local[2]") == f"sqlite:///{here}/mlflow.db"
    assert uri_for_executors("./mlruns", "local-cluster[2,1,512]") == (here / "mlruns").as_uri()


def spans(monkeypatch, begins, asked, *, cores=2):
    infos = [SimpleNamespace(request_time=begin) for begin in begins]
    monkeypatch.setattr(spark_build, "iter_traces", lambda *_: iter(infos))
    return list(spark_build._spans(asked, cores))


@pytest.mark.parametrize(
    ("begin", "most"),
    [
        (NOW_MS - 5, 1),
        (NOW_MS - 20 * HOUR, 21),
        (NOW_MS - 3 * DAY, 4),
        (0, 2000),  # a clock that stood at 1970
        (NOW_MS + DAY, 1),  # a clock that runs ahead
    ],
)
def test_spans_lie_end_to_end_from_the_first_trace_and_the_last_has_no_end(
    monkeypatch, begin, most
):
    found = spans(monkeypatch, [begin], plan())
    assert 1 <= len(found) <= most
    assert (found[0].start_ms, found[-1].end_ms) == (begin, None)
    assert [span.end_ms for span in found[:-1]] == [span.start_ms for span in found[1:]]
    assert all(span.start_ms < span.end_ms for span in found[:-1])


def test_where_there_are_no_traces_only_late_ones_are_looked_for(monkeypatch):
    assert spans(monkeypatch, [], plan()) == []
    after = plan(day="2026-03-09", ids=["a"])
    assert spans(monkeypatch, [], after) == [Span(replace(after, known=frozenset()), None, None)]


def test_an_executor_that_does_not_see_the_place_says_so_and_makes_no_folder(tmp_path):
    site = Site(str(tmp_path / "elsewhere"), "_building/1", "sqlite:///mlflow.db", None)
    with pytest.raises(DataError, match="s3://bucket/prefix"):
        read_span(site, SimpleNamespace(value={"1": frozenset()}), Span(plan(), 0, None))
    with pytest.raises(DataError, match="does not see"):
        make_day(site, Parts(date(2026, 3, 1), ("_building/1/a.parquet",), ()))
    assert not (tmp_path / "elsewhere").exists()
