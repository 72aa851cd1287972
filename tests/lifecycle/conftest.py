"""Where the project is, and requests people can say something about."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def project():
    """The checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture
def ask(monkeypatch):
    """Logs one request as a trace and returns its id."""
    import mlflow

    from mlflow_agent_plugin.entities import ANONYMOUS, AgentReply, Outcome, utc_now
    from mlflow_agent_plugin.observability.schema import (
        SUMMARY_KEY,
        row_from_reply,
        summary_from_row,
    )

    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    mlflow.set_experiment("traffic")

    def log(text, agent="support"):
        reply = AgentReply("ok", Outcome.ANSWERED, "s", agent, "sha256:aa", intent="guess")
        row = row_from_reply(reply, text=text, event_time=utc_now(), actor=ANONYMOUS, trace_id="x")
        with mlflow.start_span("request") as span:
            mlflow.update_current_trace(tags={SUMMARY_KEY: summary_from_row(row)})
        return span.trace_id

    return log
