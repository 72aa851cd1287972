"""A turn as the events of OpenAI's Responses stream, in the order its clients rely on.

Rules:
- ``response.created`` first, ``response.completed`` last, numbered; every item is added before
  anything is said about it, and done before the next one.
- An answer is one message, however many pieces and model calls made it. One that came in no pieces
  is a single delta.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any


def as_events(events: Iterator[Mapping[str, Any]], model: str) -> Iterator[dict[str, Any]]:
    """Return the full stream for what `core.responses.stream_events` gives.

    Args:
        events: Text deltas and, last, ``response.completed``.
        model: Name of the agent.
    """
    for number, event in enumerate(_unnumbered(events, model)):
        yield {**event, "sequence_number": number}


def _unnumbered(events: Iterator[Mapping[str, Any]], model: str) -> Iterator[dict[str, Any]]:
    shell = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(datetime.now(timezone.utc).timestamp()),
        "status": "in_progress",
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }
    message = _Message()
    begun = False
    for event in events:
        if not begun:  # only now is it sure that the turn was let in
            begun = True
            yield {"type": "response.created", "response": shell}
            yield {"type": "response.in_progress", "response": shell}
        if event["type"] == "response.output_text.delta":
            yield from message.say(event["delta"])
        elif event["type"] == "response.completed":
            response = {**shell, **event["response"], "id": shell["id"]}
            yield from _items(response, message)
            yield {"type": "response.completed", "response": response}


def _items(response: dict[str, Any], message: _Message) -> Iterator[dict[str, Any]]:
    """Finish the message, then give the items that wait for a person."""
    items = []
    for index, item in enumerate(response["output"]):
        if item["type"] == "message":
            text = "\n".join(part["text"] for part in item["content"])
            done = {**item, "id": message.item_id}
            yield from message.finish(text, done)
        else:
            done = item
            yield {"type": "response.output_item.added", "output_index": index, "item": done}
            yield {"type": "response.output_item.done", "output_index": index, "item": done}
        items.append(done)
    response["output"] = items


class _Message:
    """The one message of an answer, while it is being made."""

    def __init__(self) -> None:
        self.item_id = f"msg_{uuid.uuid4().hex}"
        self._begun = False
        self._where = {"item_id": self.item_id, "output_index": 0, "content_index": 0}

    def say(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            item = {
                "type": "message", "id": self.item_id, "role": "assistant",
                "status": "in_progress", "content": [],
            }  # fmt: skip
            yield {"type": "response.output_item.added", "output_index": 0, "item": item}
            part = {"type": "output_text", "text": "", "annotations": []}
            yield {"type": "response.content_part.added", **self._where, "part": part}
        yield {"type": "response.output_text.delta", **self._where, "delta": text, "logprobs": []}

    def finish(self, text: str, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if not self._begun:
            yield from self.say(text)
        yield {"type": "response.output_text.done", **self._where, "text": text, "logprobs": []}
        part = {"type": "output_text", "text": text, "annotations": []}
        yield {"type": "response.content_part.done", **self._where, "part": part}
        yield {"type": "response.output_item.done", "output_index": 0, "item": dict(item)}
