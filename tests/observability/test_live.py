"""Live metrics: what Prometheus is told, and by whom."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from helpers.agents_server import free_port

WORKER = """
import sys, time
from mlflow_agent_plugin.observability.live import observe, serve_metrics
from mlflow_agent_plugin.observability.steps import Step
port, times = int(sys.argv[1]), int(sys.argv[2])
serve_metrics(port)
row = dict(agent="support", version="3", tenant="acme", outcome="acted", seconds=0.3,
           input_tokens=10, output_tokens=2, cost_usd=0.5, approvals=1, rejected=0,
           violations=["untrusted_target"])
steps = [Step("tool", "freeze_card", seconds=0.1, cost_usd=0.25), Step("tool", "refund", status="denied"),
         Step("tool", "rm -rf {nonsense}", status="invalid", error="invalid")]
for _ in range(times):
    observe(row, steps, [("rejected", 30.0)])
print("ready", flush=True)
sys.stdin.read()
"""


def start(port, times):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(port), str(times)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def read(port):
    """Return the metrics; the endpoint may come up a moment after the worker."""
    import time

    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            continue
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if not line.startswith("#")
        }


REQUESTS = 'mlflow_agents_requests_total{agent="support",outcome="acted",tenant="acme",version="3"}'


@pytest.mark.integration
def test_two_workers_of_one_service_answer_on_one_port_with_the_sum_of_both():
    port = free_port()
    first, second = start(port, 2), start(port, 3)
    try:
        found = read(port)
        assert found[REQUESTS] == 5
        denied = 'mlflow_agents_policy_denials_total{agent="support",tool="refund",version="3"}'
        assert found[denied] == 5
        assert (
            found['mlflow_agents_cost_usd_total{agent="support",tenant="acme",version="3"}'] == 2.5
        )
        kind = '{agent="support",kind="untrusted_target",version="3"}'
        assert found[f"mlflow_agents_safety_violations_total{kind}"] == 5
        tool = '{agent="support",tool="freeze_card",version="3"}'
        assert found[f"mlflow_agents_tool_cost_usd_total{tool}"] == 1.25
        state = '{agent="support",state="rejected",version="3"}'
        assert found[f"mlflow_agents_approval_wait_seconds_sum{state}"] == 150
        names = {line for line in found if "steps_total" in line}
        assert any('name="other"' in line for line in names)
        assert not any("nonsense" in line for line in names)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


@pytest.mark.integration
def test_another_worker_answers_when_the_one_that_did_is_killed(monkeypatch):
    port = free_port()
    first = start(port, 1)
    second = None
    try:
        assert read(port)[REQUESTS] == 1
        second = start(port, 1)
        first.kill()
        first.wait()
        assert read(port)[REQUESTS] == 2
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()


def test_a_label_is_never_a_session_a_user_or_a_text():
    from mlflow_agent_plugin.observability import live

    labels = json.dumps(live._make_meters(0).requests._labelnames)
    assert not [word for word in ("session", "user", "text") if word in labels]
