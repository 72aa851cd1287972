"""Values nobody vetted, written so that every database, file and hash takes them.

A hostile argument (NaN, a lone surrogate, an integer of a million digits, 10,000 levels) must keep
neither its own denial off the record nor a case out of the results: what cannot be spelled is
replaced by a note that says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mlflow_agent_plugin.entities import canonical_json

MAX_DEPTH = 32
MAX_FIELD_CHARS = 1024
_MAX_EXACT_INTEGER = 2**53 - 1  # beyond, JSON readers disagree


def spell_field(value: object) -> str | None:
    """Return a short text every database and every JSON takes; None stays None."""
    if value is None:
        return None
    # PostgreSQL refuses NUL in text; UTF-8 refuses lone surrogates.
    text = str(value)[:MAX_FIELD_CHARS]
    return text if text.isascii() and text.isprintable() else _text(text).replace("\x00", "\\x00")


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return `value` as JSON that RFC 8785 can spell, saying what was replaced."""
    if depth > MAX_DEPTH:
        return {"unspellable": "nested too deeply"}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        bits = value.bit_length()
        if abs(value) <= _MAX_EXACT_INTEGER:
            return int(value)
        if bits <= 1023 and canonical_json(float(value)) == str(value).encode():
            return float(value)  # as RFC 8785 spells a large float, and a file gives it back
        # Python itself refuses to print integers of more than 4,300 digits.
        return {"unspellable": str(value) if bits <= 1024 else f"an integer of {bits} bits"}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"unspellable": repr(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, depth=depth + 1) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(item, depth=depth + 1) for item in value]
    return {"unspellable": type(value).__name__}


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
