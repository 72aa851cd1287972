"""Traffic for the tests: rows of the monitoring schema, and real traces that carry them."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_agent_plugin.entities import (
    Actor,
    AgentReply,
    CallStatus,
    Outcome,
    ToolCallRecord,
    Usage,
)
from mlflow_agent_plugin.observability.schema import (
    SUMMARY_KEY,
    row_from_reply,
    summary_from_row,
)

START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

WORDS = [
    "my",
    "card",
    "payment",
    "transfer",
    "has",
    "not",
    "arrived",
    "yet",
    "why",
    "is",
    "the",
    "top",
    "up",
    "still",
    "pending",
]
NEW_WORDS = [
    "mortgage",
    "quote",
    "insurance",
    "premium",
    "quarterly",
    "dividend",
    "pension",
    "plan",
]
INTENTS = [f"intent_{number}" for number in range(12)]


def make_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return one row; `changes` replace its columns."""
    reply = AgentReply(
        text="ok",
        outcome=Outcome.ACTED,
        session_id=f"session-{number}",
        agent="support",
        agent_digest="sha256:aa",
        calls=(
            ToolCallRecord("c1", "freeze_card", {"card_id": "1"}, CallStatus.EXECUTED, "allow"),
            ToolCallRecord("c2", "refund", {}, CallStatus.DENIED, "deny"),
        ),
        intent="lost_card",
        confidence=0.9,
        usage=Usage(input_tokens=20, output_tokens=5, model_calls=2, cost_usd=0.001),
        seconds=0.2,
    )
    row = row_from_reply(
        reply,
        text="please freeze my card",
        event_time=START + timedelta(seconds=number),
        actor=Actor("alice"),
        trace_id=f"tr-{number}",
    )
    return {**row, **changes}


def make_traffic(
    sessions: int,
    *,
    seed: int,
    rows_per_session: int = 1,
    novel: float = 0.0,
    start: datetime = START,
    prefix: str = "t",
) -> pd.DataFrame:
    """Return synthetic traffic; rows of one session share intent, words and mood."""
    generator = np.random.default_rng(seed)
    rows = []
    for session in range(sessions):
        is_new = generator.random() < novel
        intent = int(generator.zipf(1.6)) % len(INTENTS)
        mood = generator.normal()
        words = NEW_WORDS if is_new else WORDS
        for turn in range(rows_per_session):
            number = session * rows_per_session + turn
            low, high = (1.2, 4.0) if is_new else (6.0, 2.0)
            confidence = float(generator.beta(low, high))
            text = " ".join(generator.choice(words, 3 + int(abs(mood) * 3)))
            clarified = confidence < 0.35
            rows.append(
                {
                    "trace_id": f"{prefix}{number}",
                    "event_time": start + timedelta(seconds=number),
                    "agent": "support",
                    "agent_digest": "sha256:aa",
                    "tenant": "default",
                    "session_id": f"{prefix}s{session}",
                    "user_hash": "u",
                    "text": text,
                    "intent": INTENTS[intent],
                    "confidence": confidence,
                    "outcome": "clarified" if clarified else "answered",
                    "tools": [] if clarified else [f"tool_{intent % 3}"],
                    "calls": 0 if clarified else 1,
                    "executed": 0 if clarified else 1,
                    "denied": 0,
                    "rejected": 0,
                    "failed": 0,
                    "approvals": 0,
                    "escalated": False,
                    "clarified": clarified,
                    "model_calls": 1,
                    "input_tokens": 30 + len(text) // 4,
                    "output_tokens": 12,
                    "cost_usd": 0.0,
                    "seconds": float(np.exp(-3 + 0.3 * generator.normal() + 0.3 * mood)),
                }
            )
    frame = pd.DataFrame(rows)
    if rows:
        frame["event_time"] = pd.to_datetime(frame["event_time"], utc=True)
    return frame


@pytest.fixture(scope="session")
def row():
    """Makes one row."""
    return make_row


@pytest.fixture(scope="session")
def traffic():
    """Makes a frame of traffic."""
    return make_traffic


@pytest.fixture(scope="session")
def empty_tracking_db(tmp_path_factory):
    """An MLflow database with its schema: made once, because that takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking(tmp_path, monkeypatch, empty_tracking_db):
    """A tracking store of the test's own on sqlite; yields the id of its one experiment."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    shutil.copy(empty_tracking_db, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.set_experiment("traffic").experiment_id


@pytest.fixture
def trace(tracking):
    """Logs one real trace that carries a row and returns its id."""

    def log(**changes: Any) -> str:
        import mlflow

        with mlflow.start_span("request") as span:
            row = make_row(**changes)
            summary = changes.get("summary") or summary_from_row(row)
            mlflow.update_current_trace(tags={SUMMARY_KEY: summary})
        return span.trace_id

    return log
