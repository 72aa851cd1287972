"""What somebody thinks of a turn on trial, kept where the trial's end does not remove it.

Rules:
- A turn somebody rates becomes one trace of the server's experiment `EXPERIMENT`: the monitoring
  row of the turn, masked, and nothing else of it. Rating it again finds the same trace.
- The trace says that it is no traffic: drift and metrics do not count it, labels and feedback do.
- Who may try a version may change the model: a correction of his is a label.
"""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, AgentReply, Outcome, Usage
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.interaction.trial.folder import MODEL, TrialFolder
from mlflow_agent_plugin.lifecycle.feedback import correct_request, give_thumb
from mlflow_agent_plugin.observability.schema import (
    NO_TRAFFIC_TAG,
    SUMMARY_KEY,
    row_from_reply,
    summary_from_row,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.trial.talk import Turn

EXPERIMENT = "agent-trials"


def rate_turn(
    folder: TrialFolder,
    number: int,
    *,
    by: Actor,
    up: bool | None,
    intent: str = "",
    comment: str = "",
    tracking_uri: str | None = None,
) -> str:
    """Keep what `by` thinks of a turn, and return the trace it stands on.

    Args:
        folder: The trial.
        number: The turn, from 1.
        by: Who says so.
        up: Good or not; None: not said.
        intent: What was really asked for, if that was something else.
        comment: Why.
        tracking_uri: The server's tracking store.

    Raises:
        RequestError: There is no such turn, it has no answer, or nothing was said.
    """
    turns = folder.turns()
    turn = turns[number - 1] if 1 <= number <= len(turns) else None
    if turn is None or turn.problem is not None or not turn.said.text:
        raise RequestError("names no answer to a message", where="turn")
    if up is None and not intent.strip():
        raise RequestError("give a thumb or the right intent", where="thumb")
    trace_id = _trace(folder, number, turn, by, tracking_uri)
    if up is not None:
        give_thumb(trace_id, up=up, by=by.user, comment=comment or None, tracking_uri=tracking_uri)
    if intent.strip():
        correct_request(
            trace_id,
            by=by.user,
            intent=intent,
            comment=comment or None,
            tracking_uri=tracking_uri,
        )
    return trace_id


def _trace(
    folder: TrialFolder, number: int, turn: Turn, by: Actor, tracking_uri: str | None
) -> str:
    """Return the trace of a turn; it is made when the turn is rated first."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.exceptions import MlflowException
    from mlflow.tracing.client import TracingClient

    card, client = folder.card(), TracingClient(tracking_uri)
    # A trial forgets its oldest turns: what was said is part of the name.
    name = f"{card.trial_id}:{number}:{turn.said.text}:{turn.text}"
    trace_id = f"tr-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    try:
        client.get_trace_info(trace_id)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            raise
    else:
        return trace_id
    agent, digest = _agent(folder)
    reply = AgentReply(
        turn.text,
        Outcome(turn.outcome),
        f"trial-{card.trial_id}",
        agent,
        digest,
        intent=turn.intent,
        confidence=turn.confidence,
        usage=Usage(turn.input_tokens, turn.output_tokens, cost_usd=turn.cost_usd),
        seconds=turn.seconds,
    )
    row = row_from_reply(
        reply,
        text=turn.said.text,
        event_time=datetime.now(timezone.utc),
        actor=by,
        trace_id=trace_id,
        version=str(card.version),
    )
    client.start_trace(
        TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(_experiment(tracking_uri)),
            request_time=int(time.time() * 1000),
            state=TraceState.OK,
            request_preview=row["text"],
            tags={SUMMARY_KEY: summary_from_row(row), NO_TRAFFIC_TAG: "trial"},
        )
    )
    return trace_id


def _agent(folder: TrialFolder) -> tuple[str, str]:
    """Return name and digest of the agent on trial, from the copy the server made of it."""
    from mlflow.models import Model

    from mlflow_agent_plugin.package.digest import BundleDigest

    found: dict[str, Any] = Model.load(str(folder.path / MODEL)).flavors["agent"]
    return str(found["agent"]), BundleDigest.from_dict(found["digest"]).value


def _experiment(tracking_uri: str | None) -> str:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException:
            found = client.get_experiment_by_name(EXPERIMENT)  # somebody was faster
            if found is None:
                raise
    return str(found.experiment_id)
