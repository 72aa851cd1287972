"""The steps of requests: in the trace, in the table, and when they come late."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability import monitoring_table, read_steps, read_table
from mlflow_agent_plugin.observability import table as module
from mlflow_agent_plugin.observability.schema import (
    MAX_SUMMARY_CHARS,
    SUMMARY_KEY,
    summary_from_row,
)
from mlflow_agent_plugin.observability.spool.delivery import DELIVERED_DAY_KEY
from mlflow_agent_plugin.observability.steps import (
    STEP_COLUMN_NAMES,
    STEPS_KEY,
    Step,
    rows_from_steps,
    summary_from_steps,
)

STEPS = [
    Step("model", "planner", input_tokens=20, output_tokens=5, seconds=0.01, started=0.001),
    Step("tool", "refund", "denied", decision="deny", error="denied", call_id="c1", seconds=0.002),
]


@pytest.fixture
def log(tracking, row):
    """Logs one request with its steps; returns its trace id."""

    def make(number=0, *, event_time=None, delivered=None, steps=STEPS):
        import mlflow

        changes = {} if event_time is None else {"event_time": event_time}
        metadata = {} if delivered is None else {DELIVERED_DAY_KEY: delivered}
        start = None if event_time is None else int(event_time.timestamp() * 1e9)
        tags = {
            SUMMARY_KEY: summary_from_row(row(number, **changes)),
            STEPS_KEY: summary_from_steps(steps),
        }
        span = mlflow.start_span_no_context(
            "request", start_time_ns=start, tags=tags, metadata=metadata
        )
        span.end(end_time_ns=None if start is None else start + 10**6)
        return span.trace_id

    return make


def test_steps_come_back_as_they_were_kept(row):
    first, second = rows_from_steps(summary_from_steps(STEPS), row())
    assert set(first) == set(STEP_COLUMN_NAMES)
    assert (first["kind"], first["input_tokens"], first["step"], first["steps"]) == (
        "model", 20, 1, 2,
    )  # fmt: skip
    assert (second["status"], second["decision"], second["call_id"]) == ("denied", "deny", "c1")
    assert second["session_id"] == row()["session_id"]


def test_more_steps_than_fit_keep_the_first_and_say_how_many_there_were(row):
    text = summary_from_steps([Step("tool", "t" * 300, call_id=str(n)) for n in range(500)])
    rows = rows_from_steps(text, row())
    assert len(text) <= MAX_SUMMARY_CHARS
    assert 0 < len(rows) < 500
    assert {found["steps"] for found in rows} == {500}
    assert [found["call_id"] for found in rows] == [str(n) for n in range(len(rows))]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"schema":1,"steps":1,"kept":[{"k":"spell","n":"x","s":"executed"}]}',
        '{"schema":1,"steps":1,"kept":[{"k":"tool","n":"x","s":"executed","t":-1}]}',
        '{"schema":99,"steps":0,"kept":[]}', '{"schema":1,"steps":0,"kept":7}',
    ],
)  # fmt: skip
def test_a_summary_that_makes_no_sense_is_refused_with_its_trace(row, text):
    with pytest.raises(DataError, match=r"trace tr-0, tag agent\.steps"):
        rows_from_steps(text, row())


def test_a_build_writes_each_step_once_however_often_it_runs(tracking, log, tmp_path):
    for number in range(3):
        log(number)
    for _ in range(2):
        monitoring_table(tracking, path=tmp_path / "t", rebuild=True)
    steps = read_steps(tmp_path / "t")
    assert len(steps) == 6
    assert list(steps["step"]) == [1, 2] * 3
    assert set(steps["trace_id"]) == set(read_table(tmp_path / "t")["trace_id"])


def test_a_crash_between_steps_and_requests_loses_and_doubles_nothing(
    tracking, log, tmp_path, monkeypatch
):
    log(1)
    real = module.add_rows
    monkeypatch.setattr(module, "add_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        monitoring_table(tracking, path=tmp_path / "t")
    monkeypatch.setattr(module, "add_rows", real)
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1
    assert len(read_steps(tmp_path / "t")) == 2


def test_a_trace_that_waited_in_a_spool_is_found_by_the_next_build(tracking, log, tmp_path):
    now = datetime.now(timezone.utc)
    log(1, event_time=now)
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1
    long_ago = now - timedelta(days=3)
    log(2, event_time=long_ago)
    assert monitoring_table(tracking, path=tmp_path / "t").added == 0
    log(3, event_time=long_ago, delivered=now.date().isoformat())
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1
    assert monitoring_table(tracking, path=tmp_path / "t").seen <= 2
    assert json.loads((tmp_path / "t" / "_state.json").read_text())["experiments"]
