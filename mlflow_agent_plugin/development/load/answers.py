"""What one answer of a served agent says about its request. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_TOKENS = 2**53


def read_answer(status: int | None, text: str | None, agent_digest: str | None) -> dict[str, Any]:
    """Return `result`, `status`, tokens and tool calls of an answer.

    Args:
        status: HTTP status, None if there was no answer.
        text: The answer's body.
        agent_digest: Digest the answer has to come from; another one makes it invalid.
    """
    if status is None:
        return {"result": "connection", "status": None}
    if status == 429:
        return {"result": "limited", "status": status}
    if status >= 500:
        return {"result": "server", "status": status}
    if status >= 300:
        return {"result": "client", "status": status}
    answer = _object(text)
    extra = answer.get("custom_outputs")
    if not isinstance(extra, Mapping) or "output" not in answer:
        return {"result": "invalid", "status": status}
    if agent_digest is not None and extra.get("agent_digest") != agent_digest:
        return {"result": "invalid", "status": status}
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    calls = extra.get("calls")
    calls = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return {
        "result": "ok",
        "status": status,
        "input_tokens": _count(usage.get("input_tokens")),
        "output_tokens": _count(usage.get("output_tokens")),
        "tool_calls": len(calls),
        "tool_limited": sum(_was_limited(call) for call in calls),
    }


def served_digest(text: str | None) -> str | None:
    """Return the agent digest an answer names, None if it names none."""
    extra = _object(text).get("custom_outputs")
    found = extra.get("agent_digest") if isinstance(extra, Mapping) else None
    return found if isinstance(found, str) else None


def _was_limited(call: Mapping[str, Any]) -> bool:
    error = str(call.get("error") or "")
    # The gateway's own limits, and a 429 the tool itself answered with.
    return error.startswith("limited:") or "429" in error


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS
    return value if good else 0
