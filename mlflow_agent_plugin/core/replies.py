"""What a turn's messages and records amount to for the user.

Rules, first match wins:
1. A call waits for a human: ``waiting_approval``.
2. An escalation tool ran: ``escalated``.
3. A write ran: ``acted``.
4. The model said what its answer is (``response_metadata["outcome"]``): that.
5. A call was denied or rejected: ``refused``.
6. A call is in doubt, failed or was stopped by a limit, and nothing else was said: ``failed``.
7. Otherwise ``answered``.

Whoever asked is told what a reviewer changed, in words of the runtime's own: the model may not see,
or not say, that something else was done than what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import (
    AgentReply,
    CallStatus,
    Effect,
    Outcome,
    ToolCallRecord,
    Usage,
)

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

    from mlflow_agent_plugin.core.turn import Turn
    from mlflow_agent_plugin.package import Manifest, ToolContract


def read_reply(
    messages: Sequence[BaseMessage],
    start: int | None,
    *,
    turn: Turn,
    manifest: Manifest,
    agent_digest: str,
    contracts: Mapping[str, ToolContract],
) -> AgentReply:
    """Return the reply a turn's messages amount to.

    Args:
        messages: All messages of the session.
        start: Index of the turn's first message; None: after the last user message.
        turn: The turn that just ran.
        manifest: The agent's manifest.
        agent_digest: The agent's digest.
        contracts: Contracts of its tools.
    """
    from langchain_core.messages import AIMessage, HumanMessage

    if start is None:
        humans = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
        start = humans[-1] if humans else 0
    spoken = [message for message in messages[start:] if isinstance(message, AIMessage)]
    records = tuple(turn.records.values())
    last = spoken[-1] if spoken else None
    planned = next((m for m in spoken if m.response_metadata.get("intent")), None)
    approvals = tuple(turn.approvals.values())
    text = last.text if last is not None and not last.tool_calls else ""
    return AgentReply(
        text="\n\n".join(filter(None, [text, _what_was_edited(records)])),
        outcome=_outcome(records, last, manifest, contracts, waiting=bool(approvals)),
        session_id=turn.session_id,
        agent=manifest.name,
        agent_digest=agent_digest,
        calls=records,
        approvals=approvals,
        intent=None if planned is None else str(planned.response_metadata["intent"]),
        confidence=None if planned is None else _number(planned.response_metadata),
        usage=_usage(spoken, records, contracts, turn),
        retrieved=_retrieved(records),
        retry_after_seconds=turn.retry_after_seconds,
    )


def _what_was_edited(records: Sequence[ToolCallRecord]) -> str:
    changed = []
    for record in records:
        if record.edited and record.status is CallStatus.EXECUTED:
            values = [
                f"without {name}" if value is None else f"{name}: {json.dumps(value)}"
                for name, value in sorted(record.edited.items())
            ]
            changed.append(f"{record.tool} ({', '.join(values)})")
    return f"A reviewer changed what was done: {'; '.join(changed)}." if changed else ""


def _outcome(
    records: Sequence[ToolCallRecord],
    last: AIMessage | None,
    manifest: Manifest,
    contracts: Mapping[str, ToolContract],
    *,
    waiting: bool,
) -> Outcome:
    if waiting:
        return Outcome.WAITING_APPROVAL
    ran = {record.tool for record in records if record.status is CallStatus.EXECUTED}
    if ran & {rule.tool for rule in manifest.workflow.escalation}:
        return Outcome.ESCALATED
    if any(contracts[tool].effect is not Effect.READ for tool in ran):
        return Outcome.ACTED
    said = None if last is None else last.response_metadata.get("outcome")
    if said in {outcome.value for outcome in Outcome}:
        return Outcome(said)
    statuses = {record.status for record in records}
    if statuses & {CallStatus.DENIED, CallStatus.REJECTED}:
        return Outcome.REFUSED
    stopped = {CallStatus.FAILED, CallStatus.LIMITED}
    if CallStatus.IN_DOUBT in statuses or (statuses and statuses <= stopped):
        return Outcome.FAILED
    return Outcome.ANSWERED


def _number(metadata: Mapping[str, Any]) -> float | None:
    value = metadata.get("confidence")
    return float(value) if isinstance(value, (int, float)) else None


def _usage(
    spoken: Sequence[AIMessage],
    records: Sequence[ToolCallRecord],
    contracts: Mapping[str, ToolContract],
    turn: Turn,
) -> Usage:
    counted = [message.usage_metadata for message in spoken if message.usage_metadata]
    ran = [record.tool for record in records if record.status is CallStatus.EXECUTED]
    return Usage(
        input_tokens=sum(usage["input_tokens"] for usage in counted),
        output_tokens=sum(usage["output_tokens"] for usage in counted),
        model_calls=len(spoken),
        cost_usd=sum(contracts[tool].cost_usd for tool in ran)
        + (0.0 if turn.spend is None else turn.spend.model_cost_usd),
    )


def _retrieved(records: Sequence[ToolCallRecord]) -> tuple[str, ...]:
    found: list[str] = []
    for record in records:
        passages = record.output.get("passages") if isinstance(record.output, dict) else None
        found += [
            passage["chunk_id"]
            for passage in (passages if isinstance(passages, list) else [])
            if isinstance(passage, dict) and isinstance(passage.get("chunk_id"), str)
        ]
    return tuple(dict.fromkeys(found))
