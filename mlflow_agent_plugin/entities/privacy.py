"""What may be done with a sensitive value, and where on its way a text can be."""

from __future__ import annotations

from enum import Enum


class PrivacyAction(str, Enum):
    """What happens to a value of one data class at one place."""

    ALLOW = "allow"
    MASK = "mask"
    """Replaced: on the way to the model by a token the session can undo, elsewhere by its class."""
    HASH = "hash"
    """Replaced by a keyed hash: the same value stays recognisable, and nobody can undo it."""
    BLOCK = "block"
    """The whole text does not pass."""


class PrivacyPlace(str, Enum):
    """Where a text is on its way."""

    INPUT = "input"
    """What the user wrote, before the model and the session see it."""
    RETRIEVED = "retrieved"
    """Passages a graph node or a tool gets from the knowledge base."""
    TOOL_OUTPUT = "tool_output"
    """What a tool returned, before the model and the session see it."""
    ANSWER = "answer"
    """What the agent says, before the user sees it."""
    TRACE = "trace"
    """Spans and the monitoring row."""
    AUDIT = "audit"
    """Audit events."""
