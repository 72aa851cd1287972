"""Between OpenAI's Responses format and one turn.

Rules:
- The session is the caller's ``context.conversation_id``, or ``custom_inputs.session_id``; without
  either, a new one begins. The session keeps the history: of the input only the newest user message
  counts.
- A call that waits for a human is an ``mcp_approval_request`` item. The ``mcp_approval_response`` a
  caller sends back continues the session, but says nothing: the answer is read from the approval
  queue.
- Who asks is a signed token in ``custom_inputs.actor_token``; without one, the process's own
  unverified actor. Any other claim about identity in the request is refused, not ignored.
- Every problem is one `RequestError` that names the field and never repeats the message.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.runtime import TextDelta
from mlflow_agent_plugin.entities import Actor, AgentReply, AgentRequest
from mlflow_agent_plugin.errors import RequestError

ActorSource = Callable[["str | None"], Actor]
"""Turns an actor token, or None, into the actor; raises `IdentityError` for one that is forged."""

_TRACE_PREFIX = "tr-"
"""How MLflow's trace ids begin; 32 hexadecimal digits follow."""

CUSTOM_INPUTS = ("session_id", "actor_token", "event_time")
_REQUEST_FIELDS = frozenset(
    {
        "input", "context", "custom_inputs", "stream", "metadata", "model", "user", "store",
        "temperature", "top_p", "max_output_tokens", "truncation", "tool_choice", "tools",
        "parallel_tool_calls", "previous_response_id", "reasoning", "text", "instructions",
    }
)  # fmt: skip


def parse_request(payload: Any, *, settings: Settings, actor: ActorSource) -> AgentRequest:
    """Return the turn a Responses request asks for.

    Args:
        payload: The request's JSON object.
        settings: Settings of the process.
        actor: Turns ``custom_inputs.actor_token`` (or None) into the actor.

    Raises:
        RequestError: The request has the wrong shape.
        IdentityError: The actor token is forged or expired.
    """
    if not isinstance(payload, Mapping):
        raise RequestError(
            f"the request is a JSON {type(payload).__name__}, not an object",
            hint='Send {"input": [{"role": "user", "content": "…"}]}.',
        )
    unknown = sorted(set(payload) - _REQUEST_FIELDS)
    if unknown:
        raise RequestError(
            "is not a field of a Responses request",
            where=str(unknown[0])[:80],
            hint='Send {"input": [{"role": "user", "content": "…"}]}.',
        )
    custom = _object(payload.get("custom_inputs"), "custom_inputs")
    strange = sorted(set(custom) - set(CUSTOM_INPUTS))
    if strange:
        raise RequestError(
            f"is not known; known are {', '.join(CUSTOM_INPUTS)}",
            where=f"custom_inputs.{str(strange[0])[:80]}",
        )
    context = _object(payload.get("context"), "context")
    session_id = _session_id(context, custom)
    text, answers_approval = _read_input(payload.get("input"))
    token = custom.get("actor_token")
    if token is not None and not isinstance(token, str):
        raise RequestError("is not a string", where="custom_inputs.actor_token")
    return AgentRequest(
        text=text,
        session_id=session_id,
        actor=actor(token),
        resume=answers_approval and not text,
        event_time=_event_time(custom.get("event_time"), settings),
    )


def _session_id(context: Mapping[str, Any], custom: Mapping[str, Any]) -> str | None:
    named = {
        "context.conversation_id": context.get("conversation_id"),
        "custom_inputs.session_id": custom.get("session_id"),
    }
    given = {where: value for where, value in named.items() if value is not None}
    for where, value in given.items():
        if not isinstance(value, str):
            raise RequestError("is not a string", where=where)
    if len(set(given.values())) > 1:
        raise RequestError("differs from context.conversation_id", where="custom_inputs.session_id")
    return next(iter(given.values()), None)


def _event_time(value: Any, settings: Settings) -> datetime | None:
    where = "custom_inputs.event_time"
    if value is None:
        return None
    if not settings.accept_event_time:
        raise RequestError(
            "is accepted only while recorded traffic is replayed",
            where=where,
            hint="Set MLFLOW_AGENTS_ACCEPT_EVENT_TIME=true in the serving process.",
        )
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise RequestError("is not an ISO 8601 time", where=where) from None
    if found.tzinfo is None:
        raise RequestError("has no time zone", where=where)
    return found.astimezone(timezone.utc)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError("is not an object", where=where)
    # Schema enforcement fills absent fields with None.
    return {key: part for key, part in value.items() if part is not None}


def _read_input(value: Any) -> tuple[str, bool]:
    if isinstance(value, str):
        return value, False
    if not isinstance(value, (list, tuple)) or not value:
        raise RequestError(
            "is missing or empty",
            where="input",
            hint='Send {"input": [{"role": "user", "content": "…"}]}.',
        )
    newest: tuple[int, Mapping[str, Any]] | None = None
    answers_approval = False
    for index, item in enumerate(value):
        where = f"input[{index}]"
        if not isinstance(item, Mapping):
            raise RequestError("is not an object", where=where)
        if item.get("type") == "mcp_approval_response":
            answers_approval = True
        elif item.get("type") in (None, "message"):
            if item.get("role") not in ("user", "assistant", "system", "developer"):
                raise RequestError(
                    "is not user, assistant, system or developer", where=f"{where}.role"
                )
            if item["role"] == "user":
                newest, answers_approval = (index, item), False
    if answers_approval:
        return "", True
    if newest is None:
        raise RequestError("holds no user message", where="input")
    index, item = newest
    return _text_of(item.get("content"), f"input[{index}].content"), False


def _text_of(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise RequestError("is neither text nor a list of parts", where=where)
    texts: list[str] = []
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") not in ("input_text", "text"):
            raise RequestError("is not an input_text part", where=f"{where}[{index}]")
        if not isinstance(part.get("text"), str):
            raise RequestError("is not a string", where=f"{where}[{index}].text")
        texts.append(part["text"])
    return "\n".join(texts)


# --- answers -------------------------------------------------------------------------------------


def response_of(reply: AgentReply) -> dict[str, Any]:
    """Return `reply` as a Responses response object."""
    return {
        "id": f"resp_{(reply.trace_id or uuid.uuid4().hex).removeprefix(_TRACE_PREFIX)}",
        "object": "response",
        "created_at": int(datetime.now(timezone.utc).timestamp()),
        "status": "completed",
        "model": reply.agent,
        "output": output_items(reply),
        "usage": {
            "input_tokens": reply.usage.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.usage.input_tokens + reply.usage.output_tokens,
        },
        "custom_outputs": custom_outputs(reply),
    }


def trace_of_response(response_id: str) -> str | None:
    """Return the trace of the response with this id, None if it is the id of none.

    The id of a response that was streamed is given out before there is a trace, and names none.
    """
    found = re.fullmatch(r"(?:resp_|chatcmpl-)([0-9a-f]{32})", response_id)
    return None if found is None else f"{_TRACE_PREFIX}{found.group(1)}"


def output_items(reply: AgentReply, *, message_id: str | None = None) -> list[dict[str, Any]]:
    """Return the output items of `reply`: its text, then what waits for a human."""
    items: list[dict[str, Any]] = []
    if reply.text:
        items.append(
            {
                "type": "message",
                "id": message_id or f"msg_{uuid.uuid4().hex}",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
            }
        )
    items.extend(
        {
            "type": "mcp_approval_request",
            "id": waiting.approval_id,
            "name": waiting.tool,
            "arguments": json.dumps(waiting.arguments, ensure_ascii=False),
            "server_label": reply.agent,
        }
        for waiting in reply.approvals
    )
    return items


def custom_outputs(reply: AgentReply) -> dict[str, Any]:
    """Return what the Responses format has no place for."""
    return {
        "session_id": reply.session_id,
        "outcome": reply.outcome.value,
        "intent": reply.intent,
        "confidence": reply.confidence,
        "calls": [
            {
                "call_id": call.call_id,
                "tool": call.tool,
                "status": call.status.value,
                "decision": call.decision,
                "policy_ids": list(call.policy_ids),
                "edited": dict(call.edited),
                "error": call.error,
                "retry_after_seconds": call.retry_after_seconds,
            }
            for call in reply.calls
        ],
        "approvals": [
            {
                "approval_id": waiting.approval_id,
                "tool": waiting.tool,
                "role": waiting.role,
                "reason": waiting.reason,
                "expires_at": waiting.expires_at.isoformat(),
            }
            for waiting in reply.approvals
        ],
        "retrieved": list(reply.retrieved),
        "retry_after_seconds": reply.retry_after_seconds,
        "trace_id": reply.trace_id,
        "agent_digest": reply.agent_digest,
    }


def stream_events(events: Iterator[TextDelta | AgentReply]) -> Iterator[dict[str, Any]]:
    """Turn a turn's events into Responses stream events; the last one carries the response."""
    message_id: str | None = None
    for event in events:
        if isinstance(event, TextDelta):
            message_id = event.message_id
            yield {
                "type": "response.output_text.delta",
                "item_id": event.message_id,
                "output_index": 0,
                "content_index": 0,
                "delta": event.text,
            }
            continue
        for index, item in enumerate(output_items(event, message_id=message_id)):
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        yield {"type": "response.completed", "response": response_of(event)}
