"""Spark on a cluster of two executors: suites, traces made into suites, scoring, tables, drift.

One cluster for the whole file, because starting one takes half a minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from mlflow_agent_plugin.development import Scenario, Suite
from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.trust import write_results

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def spark():
    """Give a session on a cluster of two executor processes."""
    pyspark = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    home = Path(pyspark.__file__).parents[1]
    before = {name: os.environ.get(name) for name in ("PYSPARK_PYTHON", "SPARK_HOME", "PYTHONPATH")}
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(home)}
    session = (
        pyspark.SparkSession.builder.master("local-cluster[2,1,1024]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "512m")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "America/New_York")  # nothing may depend on it
        .getOrCreate()
    )
    yield session
    session.stop()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def executors():
    """Return the process ids of this test's executors."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = f"PYSPARK_PYTHON={sys.executable}\0".encode() in environment
        if b"CoarseGrainedExecutorBackend" in command and b"org.apache.spark" in command and ours:
            found.append(int(folder.name))
    return found


def case(case_id, text, expect=None, **more):
    expect = expect or {"outcomes": ["answered"]}
    return Scenario.model_validate(
        {"id": case_id, "turns": [{"user": text}], "expect": expect, **more}
    )


def play(bundle, suite, **options):
    with run_suite(bundle, suite, **{"progress": False, **options}) as run:
        return run


def results(run, path):
    write_results([r.result for r in run.runs], path)
    return path.read_bytes()


def test_an_executor_killed_in_the_middle_changes_no_row(spark, lamps, tmp_path):
    acted = {"outcomes": ["acted"], "calls_required": [{"tool": "switch"}]}
    cases = [case(f"look-{n:02}", "look") for n in range(10)]
    cases += [case(f"switch-{n:02}", "switch", acted) for n in range(8)]
    cases += [case("crash", "crash"), case("hang", "hang", max_seconds=1)]
    suite = Suite(name="tiny", scenarios=tuple(cases))
    spark.sparkContext.parallelize(range(2), 2).count()  # both executors are up
    assert len(executors()) == 2
    killed = []

    def kill_one(_name, done, _total):
        if done and not killed:
            killed.append(executors()[0])
            os.kill(killed[0], signal.SIGKILL)

    run = play(lamps, suite, engine="spark", progress=kill_one)
    assert killed
    local = play(lamps, suite, workers=1)
    assert results(run, tmp_path / "a.jsonl") == results(local, tmp_path / "b.jsonl")
    assert [r.result.case_id for r in run.runs if not r.result.success] == ["crash", "hang"]
    assert run.audit_events > 0


def test_a_suite_made_of_traces_is_replayed_with_the_same_results(spark, lamps, tmp_path):
    import mlflow

    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.development.regression import find_traces, suite_from_traces
    from mlflow_agent_plugin.entities import Actor, AgentRequest

    with AgentRuntime.open(lamps) as runtime:
        for number, text in enumerate(["look", "switch", "twice"]):
            actor = Actor(f"user-{number}", verified=True)
            runtime.invoke(AgentRequest(text, session_id=f"s{number}", actor=actor))
    mlflow.flush_trace_async_logging()
    traces = find_traces(filter_string="", limit=50)
    suite = suite_from_traces(traces, lamps, name="recorded").suite
    run = play(lamps, suite, engine="spark")
    local = play(lamps, suite, workers=1)
    assert len(run.runs) == 3
    assert results(run, tmp_path / "a.jsonl") == results(local, tmp_path / "b.jsonl")


ANSWER = """
    id string, output array<struct<content:array<struct<text:string>>>>,
    custom_outputs struct<outcome:string,session_id:string>
"""


def test_mlflows_spark_udf_scores_requests_with_an_agent(spark, lamps_dir, tmp_path):
    import mlflow
    from pyspark.sql.functions import struct

    from mlflow_agent_plugin.core.flavor import save_agent

    save_agent(lamps_dir, tmp_path / "model")
    score = mlflow.pyfunc.spark_udf(
        spark, str(tmp_path / "model"), result_type=ANSWER, env_manager="local"
    )
    rows = [([{"role": "user", "content": text}],) for text in ("look", "switch", "look")]
    frame = spark.createDataFrame(rows, "input array<struct<role:string,content:string>>")
    answers = frame.coalesce(1).select(score(struct("input")).alias("answer")).collect()
    told = [row["answer"]["output"][0]["content"][0]["text"] for row in answers]
    assert told == ["The desk lamp is off.", "The desk lamp is on.", "The desk lamp is off."]
    assert {row["answer"]["custom_outputs"]["outcome"] for row in answers} == {"answered", "acted"}


START = datetime(2026, 3, 1, 22, tzinfo=timezone.utc)


def request_row(number, **changes):
    """Return one row of a monitoring table."""
    return {
        "trace_id": f"t-{number}", "event_time": START + timedelta(minutes=7 * number),
        "agent": "support", "agent_digest": "sha256:aa", "version": None,
        "session_id": f"s{number // 2}", "tenant": "default", "user_hash": "u",
        "text": "card has not arrived" if number % 3 else "what is a mortgage",
        "intent": "lost_card", "confidence": 0.9, "outcome": "answered",
        "tools": ["look"] if number % 2 else [], "calls": 1, "executed": 1, "denied": 0,
        "rejected": 0, "failed": 0, "approvals": 0, "escalated": False, "clarified": False,
        "model_calls": 1, "input_tokens": 30, "output_tokens": 12, "cost_usd": 0.0,
        "seconds": 0.1, **changes,
    }  # fmt: skip


def log_request(number, *, tags=None, metadata=None, begun=None, **changes):
    """Log a trace with the row and one step of a request."""
    import mlflow

    from mlflow_agent_plugin.observability.schema import SUMMARY_KEY, summary_from_row
    from mlflow_agent_plugin.observability.steps import STEPS_KEY, Step, summary_from_steps

    row = request_row(number, **changes)
    steps = [Step("model", "planner", input_tokens=20), Step("tool", "look", call_id=f"c{number}")]
    span = mlflow.start_span_no_context(
        "request",
        start_time_ns=int((begun or row["event_time"]).timestamp() * 1e9),
        tags={
            SUMMARY_KEY: summary_from_row(row),
            STEPS_KEY: summary_from_steps(steps[: 1 + number % 2]),
            **(tags or {}),
        },
        metadata=metadata or {},
    )
    span.end()


def dying(work, flag):
    """Return `work`, which kills the executor it runs in when it has done its first task."""

    def work_and_die(*arguments):
        answer = work(*arguments)
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return answer
        forker = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2]
        os.kill(int(forker.split()[1]), signal.SIGKILL)
        os._exit(1)

    return work_and_die


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "_lock"
    }


def test_a_table_built_on_spark_is_the_same_byte_for_byte_though_executors_die(
    spark, tmp_path, monkeypatch
):
    import mlflow

    from mlflow_agent_plugin.observability import monitoring_table, spark_build, table
    from mlflow_agent_plugin.observability.schema import NO_TRAFFIC_TAG, SUMMARY_KEY
    from mlflow_agent_plugin.observability.spool.delivery import DELIVERED_DAY_KEY

    now = datetime.now(timezone.utc)  # the same for both builds, also about midnight
    monkeypatch.setattr(table, "utc_now", lambda: now)
    start = now.replace(hour=22, minute=0) - timedelta(days=4)  # every day is a task
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")  # executors run in other folders
    experiments = [mlflow.set_experiment(name).experiment_id for name in ("one", "two")]
    for number in range(24):
        mlflow.set_experiment(experiment_id=experiments[number % 2])
        log_request(number, event_time=start + timedelta(hours=2 * number))
    log_request(30, event_time=start, tags={NO_TRAFFIC_TAG: "trial"})
    log_request(31, event_time=start, tags={SUMMARY_KEY: "no summary"})
    # Its request says another day than its trace.
    log_request(32, event_time=start - timedelta(days=30), begun=start)
    for name in ("read_span", "make_day"):
        monkeypatch.setattr(
            spark_build, name, dying(getattr(spark_build, name), tmp_path / f"{name} died")
        )

    def both():
        built = [
            monitoring_table(experiments, path=tmp_path / engine, engine=engine)
            for engine in ("local", "spark")
        ]
        assert contents(tmp_path / "spark") == contents(tmp_path / "local")
        here, there = (one.to_dict() | {"path": None} for one in built)
        assert there == here
        return there

    first = both()
    assert (tmp_path / "read_span died").exists()
    assert (tmp_path / "make_day died").exists()
    assert (first["added"], first["seen"], first["skipped"]) == (25, 27, 1)
    assert len(first["days"]) == 4
    log_request(40, event_time=start + timedelta(days=3))
    log_request(41, event_time=start, metadata={DELIVERED_DAY_KEY: now.date().isoformat()})
    second = both()
    changed = [(start + timedelta(days=days)).date().isoformat() for days in (0, 3)]
    assert (second["added"], second["days"]) == (2, changed)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Give two monitoring tables over several days: the same traffic, and one with other words."""
    import numpy as np

    from mlflow_agent_plugin.observability.days import add_rows

    folder = tmp_path_factory.mktemp("tables")
    generator = np.random.default_rng(3)
    found = {}
    for name, shifted in (("reference", False), ("current", True)):
        rows = [
            request_row(
                number,
                trace_id=f"{name}-{number}",
                intent=f"i{int(generator.integers(3 + 3 * shifted))}",
                confidence=float(generator.beta(2 if shifted else 6, 2)),
            )
            for number in range(900)
        ]
        add_rows(folder / name, rows, set())
        found[name] = folder / name
    return found


@pytest.mark.parametrize("since", [None, START + timedelta(days=1)])
def test_drift_over_sessions_found_by_spark_is_the_verdict_over_all_rows(spark, tables, since):
    from mlflow_agent_plugin.observability import check_drift, read_table, sessions_on_spark

    frames = {name: read_table(path, since=since) for name, path in tables.items()}
    firsts = {name: sessions_on_spark(path, since=since) for name, path in tables.items()}
    assert len(firsts["current"]) < len(frames["current"])
    here = check_drift(frames["reference"], frames["current"], engine="plain")
    there = check_drift(firsts["reference"], firsts["current"], engine="plain")
    assert there.to_dict() == here.to_dict()
    assert "confidence" in {c.name for c in here.columns if c.p_value and c.p_value < 0.001}


def test_what_is_no_table_is_said_before_spark_reads_anything(spark, tmp_path):
    from mlflow_agent_plugin.observability import sessions_on_spark

    with pytest.raises(DataError, match="no monitoring table"):
        sessions_on_spark(tmp_path)
    with pytest.raises(DataError, match="lacks the column trace_id"):
        sessions_on_spark(spark.createDataFrame([(1,)], "x int"))
