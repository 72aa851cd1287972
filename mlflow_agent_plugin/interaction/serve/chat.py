"""Between OpenAI's Chat Completions format and the Responses format the agents speak.

Rules:
- Of the messages only the newest user message counts: the session keeps the history. The session is
  ``metadata.session_id``; without it a new one begins, and the answer's ``session_id`` names it.
- What waits for a person is said in the text; the ids stand in ``custom_outputs``.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from mlflow_agent_plugin.errors import RequestError

_FIELDS = frozenset(
    {"messages", "model", "stream", "metadata", "user", "temperature", "top_p", "max_tokens",
     "max_completion_tokens", "n", "stop", "stream_options", "seed", "store"}
)  # fmt: skip


def as_responses(payload: Any) -> dict[str, Any]:
    """Return the Responses request a chat request means.

    Raises:
        RequestError: It has the wrong shape.
    """
    if not isinstance(payload, Mapping):
        raise RequestError("the request is not a JSON object")
    unknown = sorted(set(payload) - _FIELDS)
    if unknown:
        raise RequestError("is not a field this server knows", where=str(unknown[0])[:80])
    if payload.get("n") not in (None, 1):
        raise RequestError("is 1 here", where="n")
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("is missing or empty", where="messages")
    newest = next(
        (m for m in reversed(messages) if isinstance(m, Mapping) and m.get("role") == "user"), None
    )
    if newest is None:
        raise RequestError("holds no user message", where="messages")
    metadata = payload.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise RequestError("is not an object", where="metadata")
    session = metadata.get("session_id")
    return {
        "input": [{"role": "user", "content": newest.get("content")}],
        **({} if session is None else {"custom_inputs": {"session_id": session}}),
    }


def as_completion(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Responses response as a chat completion."""
    return {
        "id": f"chatcmpl-{response['id'].removeprefix('resp_')}",
        "object": "chat.completion",
        "created": response["created_at"],
        "model": response["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _text(response)},
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(response),
        "session_id": response["custom_outputs"]["session_id"],
        "custom_outputs": response["custom_outputs"],
    }


def as_chunks(
    events: Iterator[Mapping[str, Any]], model: str, *, usage: bool = False
) -> Iterator[dict[str, Any]]:
    """Return Responses stream events as chat completion chunks, with usage last if asked for."""
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(datetime.now(timezone.utc).timestamp()),
        "model": model,
    }

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    begun = sent = False
    for event in events:
        if not begun:  # only now is it sure that the turn was let in
            begun = True
            yield chunk({"role": "assistant", "content": ""})
        if event["type"] == "response.output_text.delta":
            sent = True
            yield chunk({"content": event["delta"]})
        elif event["type"] == "response.completed":
            response = event["response"]
            text = _text(response)
            if not sent and text:
                yield chunk({"content": text})
            last = chunk({}, "stop")
            yield {
                **last,
                "session_id": response["custom_outputs"]["session_id"],
                "custom_outputs": response["custom_outputs"],
            }
            if usage:
                yield {**head, "choices": [], "usage": _usage(response)}


def _usage(response: Mapping[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": response["usage"]["input_tokens"],
        "completion_tokens": response["usage"]["output_tokens"],
        "total_tokens": response["usage"]["total_tokens"],
    }


def _text(response: Mapping[str, Any]) -> str:
    texts = [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    ]
    return "\n".join(texts)
