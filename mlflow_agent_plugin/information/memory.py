"""How much of a conversation a model is shown.

Rules:
- A turn begins with what the user says. Whole turns are kept or left out, so a tool's result never
  stands without its call, nor a call without its result.
- System messages are always kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from mlflow_agent_plugin.package.manifest import MemorySpec

M = TypeVar("M", bound="BaseMessage")


def recent_turns(messages: Sequence[M], turns: int) -> list[M]:
    """Return the system messages and the last `turns` turns.

    Args:
        messages: A conversation.
        turns: Turns to keep, at least 1.

    Raises:
        ValueError: `turns` is below 1.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1, not {turns}")
    starts = [index for index, message in enumerate(messages) if message.type == "human"]
    first = starts[-turns] if len(starts) > turns else 0
    return [
        message
        for index, message in enumerate(messages)
        if index >= first or message.type == "system"
    ]


def select_memory(messages: Sequence[M], spec: MemorySpec) -> list[M]:
    """Return what the model may see under the manifest's ``memory``: the window, or one turn."""
    return recent_turns(messages, spec.window_turns if spec.strategy == "window" else 1)
