"""Scenarios from traces: recorded answers, masked, merged, and they play."""

from __future__ import annotations

import mlflow
import pytest

import mlflow_agent_plugin as agents
from mlflow_agent_plugin.development.regression import find_traces, suite_from_traces
from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.development.suite import load_suite, write_suite
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import DataError, SuiteError

pytestmark = pytest.mark.integration


@pytest.fixture
def traffic(lamps_dir):
    """A served lamp agent after some traffic."""
    mlflow.set_experiment("traffic")
    info = agents.log_agent(lamps_dir, name="lamps")
    agent = agents.load_agent(info.model_uri)
    reply = agent.ask("switch the desk lamp on")
    agent.ask("switch  the DESK lamp on")
    agent.ask("door: switch it, my mail is jane@example.com")
    first = agent.ask("smash the desk lamp", session_id=None)
    agent.ask("loop for ever")  # runs into its limit: failed
    (approval,) = first.approvals
    with agent.runtime() as runtime:
        runtime.approvals.approve(
            approval.approval_id, Actor(user="w", tenant="default", roles=frozenset({approval.role}))
        )  # fmt: skip
    agent.close()
    mlflow.flush_trace_async_logging()
    return reply


def test_sessions_become_scenarios_that_play_and_hold(traffic, lamps, tmp_path):
    made = suite_from_traces(find_traces(filter_string="", limit=50), lamps, name="from-traffic")

    assert made.merged == 1
    assert any("failed" in why for why in made.skipped.values())
    by_text = {scenario.turns[0].user: scenario for scenario in made.suite.scenarios}
    assert "jane@example.com" not in str(by_text)
    switched = next(s for text, s in by_text.items() if "DESK" in text.upper() and "switch" in text)
    assert "seen 2 times" in switched.description
    assert switched.simulated[0].tool == "switch"
    assert switched.simulated[0].output["state"] == "on"
    assert switched.expect.calls_required[0].count == 1
    door = next(s for text, s in by_text.items() if text.startswith("door"))
    assert door.expect.calls_forbidden[0].tool == "switch"

    write_suite(made.suite, tmp_path / "again.jsonl")
    again = load_suite(tmp_path / "again.jsonl")
    assert again.digest == made.suite.digest
    with run_suite(lamps, again, workers=0, progress=False, journal_dir=tmp_path / "j") as played:
        failed = [run.result for run in played.runs if not run.result.success]
    assert failed == []


def test_one_trace_brings_its_whole_session(lamps_dir, lamps):
    mlflow.set_experiment("traffic")
    agent = agents.load_agent(agents.log_agent(lamps_dir, name="lamps").model_uri)
    first = agent.ask("ask me something")
    second = agent.ask("ask me more", session_id=first.session_id)
    agent.close()
    mlflow.flush_trace_async_logging()

    made = suite_from_traces(find_traces(trace_ids=[second.trace_id]), lamps, name="one")

    (scenario,) = made.suite.scenarios
    assert [turn.user for turn in scenario.turns] == ["ask me something", "ask me more"]


def test_asking_for_nothing_or_finding_nothing_is_an_error(lamps):
    mlflow.set_experiment("empty")
    with pytest.raises(DataError, match="either"):
        find_traces()
    with pytest.raises(DataError, match="no trace"):
        find_traces(filter_string="")
    with pytest.raises(DataError, match="cannot be read"):
        find_traces(trace_ids=["tr-none"])
    with pytest.raises(SuiteError, match="no session"):
        suite_from_traces([], lamps, name="none")
