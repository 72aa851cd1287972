"""Metrics of traffic and their intervals."""

import numpy as np
import pandas as pd
import pytest

from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.metrics import (
    METRIC_NAMES,
    compute_task_metrics,
    compute_tool_metrics,
    flatten,
    metrics_by,
    violations_by_kind,
)
from mlflow_agent_plugin.observability.schema import read_rows


def test_without_rows_every_rate_is_unknown_and_its_interval_the_whole_range():
    metrics = compute_task_metrics(read_rows([]))
    assert set(metrics) == set(METRIC_NAMES)
    rate = metrics["completion_rate"]
    assert (rate.value, rate.low, rate.high, rate.n) == (None, 0.0, 1.0, 0)
    assert metrics["latency_p95_seconds"].value is None
    assert "traffic/completion_rate" not in flatten(metrics)


def test_independent_rows_get_wilsons_interval(traffic):
    frame = traffic(400, seed=1)
    metric = compute_task_metrics(frame)["clarification_rate"]
    hits = int(frame["clarified"].sum())
    assert metric.value == hits / 400
    assert (metric.low, metric.high) == pytest.approx(wilson_interval(hits, 400), abs=0.005)


def test_rows_of_one_session_do_not_count_as_more_evidence(traffic):
    frame = traffic(60, seed=2)
    copies = pd.concat([frame] * 10, ignore_index=True)
    once, often = (compute_task_metrics(f)["clarification_rate"] for f in (frame, copies))
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low > 0.9 * (once.high - once.low)


def test_a_rate_of_zero_in_one_long_session_proves_little(row):
    frame = pd.DataFrame([row(n, session_id="one") for n in range(500)])
    metric = compute_task_metrics(frame)["escalation_rate"]
    assert metric.value == 0
    assert metric.high > 0.5


def test_the_interval_covers_the_true_rate_when_sessions_differ():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        rates = generator.beta(2, 6, 80)
        hits = [generator.random(5) < rate for rate in rates]
        frame = pd.DataFrame(
            {
                "session_id": np.repeat(np.arange(80), 5),
                "tenant": "t",
                "outcome": np.where(np.concatenate(hits), "failed", "answered"),
            }
        )
        for name in ("escalated", "clarified"):
            frame[name] = False
        for name in (
            "approvals",
            "rejected",
            "denied",
            "failed",
            "calls",
            "model_calls",
            "input_tokens",
            "output_tokens",
            "cost_usd",
            "seconds",
        ):
            frame[name] = 0
        metric = compute_task_metrics(frame)["failure_rate"]
        covered += metric.low <= 0.25 <= metric.high
    assert covered >= 180


def test_metrics_split_by_tenant_and_by_tool(row):
    frame = pd.DataFrame([row(1, tenant="a"), row(2, tenant="b"), row(3, tenant="b", tools=[])])
    by_tenant = metrics_by(frame, "tenant")
    assert {name: m["requests"].value for name, m in by_tenant.items()} == {"a": 1, "b": 2}
    by_tool = metrics_by(frame, "tools")
    assert {name: m["requests"].value for name, m in by_tool.items()} == {
        "freeze_card": 2,
        "refund": 2,
    }
    with pytest.raises(DataError):
        metrics_by(frame, "weather")


def test_rows_of_another_shape_are_refused():
    with pytest.raises(DataError, match="outcome"):
        compute_task_metrics(pd.DataFrame({"session_id": []}))


def test_flat_metrics_carry_the_interval(traffic):
    numbers = flatten(compute_task_metrics(traffic(50, seed=4)))
    assert numbers["traffic/completion_rate_low"] <= numbers["traffic/completion_rate"]
    assert numbers["traffic/requests"] == 50


def test_violations_count_by_kind_and_rows_of_before_there_were_any_are_no_violations(row):
    frame = pd.DataFrame([row(1), row(2), row(3)])
    frame["violations"] = [["untrusted_target", "denied_call", "denied_call"], [], None]
    counts = violations_by_kind(frame)
    assert counts["denied_call"] == 2
    assert counts["untrusted_target"] == 1
    assert counts["privacy_blocked"] == 0
    assert compute_task_metrics(frame)["violation_rate"].value == pytest.approx(1 / 3)
    with pytest.raises(DataError):
        violations_by_kind(frame.drop(columns="violations"))


def test_a_tool_s_metrics_come_from_its_steps_alone():
    step = {"kind": "tool", "tenant": "t", "seconds": 0.2, "cost_usd": 0.5}
    steps = pd.DataFrame(
        [
            {**step, "name": "refund", "session_id": "a", "status": "executed"},
            {**step, "name": "refund", "session_id": "b", "status": "denied", "seconds": None},
            {**step, "name": "look", "session_id": "a", "status": "failed", "cost_usd": None},
            {**step, "name": "model-x", "session_id": "a", "status": "executed", "kind": "model"},
        ]
    )
    found = compute_tool_metrics(steps)
    assert set(found) == {"refund", "look"}
    assert found["refund"]["calls"].value == 2
    assert found["refund"]["cost_usd_total"].value == 1.0
    assert found["refund"]["denial_rate"].value == 0.5
    assert found["look"]["failure_rate"].value == 1.0
    assert compute_tool_metrics(steps.iloc[:0]) == {}
    with pytest.raises(DataError):
        compute_tool_metrics(pd.DataFrame({"kind": []}))
