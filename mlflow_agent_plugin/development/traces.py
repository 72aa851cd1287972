"""What MLflow's traces of an agent say happened: turns, calls, what the tools answered.

Rules:
- A turn is an AGENT span of this package's runtime, its calls are the TOOL spans below it.
- Traces are masked when they are written: personal data in arguments and outputs is gone for good,
  so a check on such a value cannot hold on a trace.
- A turn that left no outcome had failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.scorers import Episode
from mlflow_agent_plugin.entities import (
    Actor,
    AgentReply,
    CallStatus,
    Outcome,
    ToolCallRecord,
    Usage,
)
from mlflow_agent_plugin.observability.schema import SUMMARY_KEY

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace


@dataclass(frozen=True)
class TracedTurn:
    """One turn as a trace shows it.

    Attributes:
        text: What the user said, masked; None for a resumption.
        reply: What the agent did.
        started_ns: When.
    """

    text: str | None
    reply: AgentReply
    started_ns: int


def read_turns(trace: Trace) -> list[TracedTurn]:
    """Return the turns in `trace`, in order; empty if it is of something else."""
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    parents = {span.span_id: span.parent_id for span in spans}
    agents = {span.span_id: span for span in spans if _is_turn(span)}
    below: dict[str, list[Span]] = {span_id: [] for span_id in agents}
    for span in spans:
        if span.span_type in ("TOOL", "CHAT_MODEL"):
            above = span.parent_id
            while above is not None and above not in agents:
                above = parents.get(above)
            if above is not None:
                below[above].append(span)
    return [
        _turn(
            span,
            [child for child in below[span_id] if child.span_type == "TOOL"],
            sum(child.span_type == "CHAT_MODEL" for child in below[span_id]),
            trace,
        )
        for span_id, span in agents.items()
    ]


def read_episode(traces: Trace | Sequence[Trace]) -> Episode:
    """Return what happened in a trace, or in the traces of one session, as one episode."""
    several = [traces] if hasattr(traces, "data") else list(traces)
    turns = sorted(
        (turn for trace in several for turn in read_turns(trace)), key=lambda turn: turn.started_ns
    )
    return Episode(tuple((turn.text, turn.reply) for turn in turns))


def read_summary(trace: Trace) -> Mapping[str, Any]:
    """Return the monitoring row among a trace's tags; empty if there is none."""
    try:
        found = json.loads(trace.info.tags.get(SUMMARY_KEY) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_turn(span: Span) -> bool:
    return span.span_type == "AGENT" and "session_id" in _object(span.inputs)


def _turn(span: Span, tools: Sequence[Span], model_calls: int, trace: Trace) -> TracedTurn:
    inputs, outputs = _object(span.inputs), _object(span.outputs)
    outcome = _outcome(outputs.get("outcome"))
    resumed = bool(inputs.get("resume"))
    about = span.attributes
    confidence = about.get("agent.confidence")
    return TracedTurn(
        text=None if resumed else str(inputs.get("text") or ""),
        reply=AgentReply(
            text=str(outputs.get("text") or ""),
            outcome=outcome,
            session_id=str(inputs.get("session_id") or ""),
            agent=span.name,
            agent_digest=str(span.attributes.get("agent.digest") or ""),
            calls=tuple(_call(tool, outcome) for tool in tools),
            intent=about.get("agent.intent"),
            confidence=confidence if isinstance(confidence, float) else None,
            usage=Usage(
                input_tokens=_count(about.get("agent.input_tokens")),
                output_tokens=_count(about.get("agent.output_tokens")),
                model_calls=model_calls,
                cost_usd=float(about.get("agent.cost_usd") or 0.0),
            ),
            trace_id=trace.info.trace_id,
            seconds=max(0, (span.end_time_ns or span.start_time_ns) - span.start_time_ns) / 1e9,
        ),
        started_ns=span.start_time_ns,
    )


def _call(span: Span, outcome: Outcome) -> ToolCallRecord:
    status = _status(span.attributes.get("agent.status"))
    if status is None:
        # A call that pauses its turn ends its span before it has a status.
        waits = outcome is Outcome.WAITING_APPROVAL
        status = CallStatus.WAITING_APPROVAL if waits else CallStatus.FAILED
    ran = status is CallStatus.EXECUTED
    return ToolCallRecord(
        call_id=span.span_id,
        tool=span.name.removeprefix("tool "),
        arguments=_object(_object(span.inputs).get("arguments")),
        status=status,
        decision=str(span.attributes.get("agent.decision") or ""),
        policy_ids=tuple(span.attributes.get("agent.policy_ids") or ()),
        output=span.outputs if ran else None,
        error=None if ran else str(span.outputs or "") or None,
    )


def session_actor(summary: Mapping[str, Any]) -> Actor:
    """Return who asked, as far as a trace tells: the tenant, and a pseudonym."""
    return Actor(
        user=str(summary.get("user_hash") or "customer"),
        tenant=str(summary.get("tenant") or "default"),
        roles=frozenset(),
        verified=True,
    )


def _outcome(value: Any) -> Outcome:
    try:
        return Outcome(value)
    except ValueError:
        return Outcome.FAILED


def _status(value: Any) -> CallStatus | None:
    try:
        return CallStatus(value)
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
