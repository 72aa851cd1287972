"""Tool results as messages, and the labels by which their texts are trusted later.

Rules:
- Only the runtime (what the user wrote) and the gateway (what a tool returned) write the label. A
  message of a bundle's own making has none and counts as untrusted, whatever its type: a hand-over
  note must not pass a tool's words off as the user's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.provenance import LabelledText
from mlflow_agent_plugin.entities import Provenance, ToolCallRecord

if TYPE_CHECKING:
    from langchain_core.messages import HumanMessage, ToolMessage

LABEL_KEY = "mlflow_agents"
"""Key in a tool message's `additional_kwargs` under which the gateway keeps its own label."""


def seen_texts(state: Any) -> list[LabelledText] | None:
    """Return every text of a graph's messages with its label, None if there are no messages."""
    from langchain_core.messages import HumanMessage, ToolMessage

    messages = state.get("messages") if isinstance(state, Mapping) else None
    if messages is None:
        messages = getattr(state, "messages", None)
    if messages is None and isinstance(state, list):
        messages = state
    if messages is None:
        return None
    seen: list[LabelledText] = []
    for message in messages:
        label = message.additional_kwargs.get(LABEL_KEY, {}).get("label")
        if isinstance(message, HumanMessage):
            user = label == Provenance.USER.value
            seen.append((Provenance.USER if user else Provenance.UNTRUSTED, message.text))
        elif isinstance(message, ToolMessage):
            trusted = label == Provenance.TRUSTED.value
            seen.append(
                (Provenance.TRUSTED if trusted else Provenance.UNTRUSTED, str(message.content))
            )
    return seen


def user_message(text: str, *, message_id: str) -> HumanMessage:
    """Return what the user wrote, labelled as theirs."""
    from langchain_core.messages import HumanMessage

    return HumanMessage(
        content=text,
        id=message_id,
        additional_kwargs={LABEL_KEY: {"label": Provenance.USER.value}},
    )


def tool_message(record: ToolCallRecord, label: Provenance) -> ToolMessage:
    """Return what the model is told about a call: the output, or ``{"error": {kind, message}}``."""
    from langchain_core.messages import ToolMessage

    if record.error is None:
        content = json.dumps(record.output, ensure_ascii=False)
    else:
        kind, _, message = record.error.partition(": ")
        content = json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False)
    return ToolMessage(
        content=content,
        name=record.tool,
        tool_call_id=record.call_id,
        status="success" if record.error is None else "error",
        additional_kwargs={LABEL_KEY: {"label": label.value, "status": record.status.value}},
    )
