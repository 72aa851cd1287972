"""The audit's rules as pure functions: how events are spelled, linked, sealed.

Rules:
- Every writer (one per process and log) numbers its events from 1 and links each to the one before:
  ``hash`` covers every field, the body's exact text and ``prev_hash``. The first event's
  ``prev_hash`` names the writer, so that no chain can continue another.
- A checkpoint seals a writer's chain up to one event: it carries that event's hash and a signature.
  All checkpoints of a store form one chain of their own, whoever wrote them: one that was
  removed is missed by the next.
- A body is compact JSON with sorted keys, in ASCII; the hash covers that exact text. What JSON
  cannot spell is written as text that says so, and a body that is too large as its digest: a
  hostile argument must not keep its own denial off the record.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities import sha256_digest
from mlflow_agent_plugin.trust.spelling import plain

FORMAT = "mlflow-agents/audit/v1"
MAX_BODY_BYTES = 64 * 1024

# Made once: `json.dumps` makes a new encoder for every call with settings of its own.
_FIELDS = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_BODY = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)

HEADER_FIELDS = (
    "writer",
    "seq",
    "ts",
    "kind",
    "request_id",
    "session_id",
    "tenant",
    "actor",
    "agent",
    "agent_digest",
)


class AuditKind(str, Enum):
    """What an event records."""

    REQUEST_RECEIVED = "request_received"
    TOOL_CALL_DECIDED = "tool_call_decided"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_FINISHED = "tool_call_finished"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_ANSWERED = "approval_answered"
    REQUEST_ANSWERED = "request_answered"
    PROMOTION_REQUESTED = "promotion_requested"
    PROMOTION_ANSWERED = "promotion_answered"
    GATE_DECIDED = "gate_decided"
    VERSION_REGISTERED = "version_registered"
    VERSION_PROMOTED = "version_promoted"
    VERSION_ROLLED_BACK = "version_rolled_back"
    SLOT_EMPTIED = "slot_emptied"
    GATE_RULES_CHANGED = "gate_rules_changed"
    EVIDENCE_RECORDED = "evidence_recorded"
    DRIFT_DETECTED = "drift_detected"
    RETRAIN_STARTED = "retrain_started"
    UNSAFE_OVERRIDE = "unsafe_override"


@dataclass(frozen=True)
class AuditEvent:
    """One event as it was recorded.

    Attributes:
        writer: Random id of the writer (one per process and log).
        seq: Number within the writer's chain, from 1.
        ts: UTC time, ISO 8601 with microseconds.
        kind: A value of `AuditKind`.
        actor: User on whose behalf, or who answered.
        body: Everything else, a JSON object.
        position: Row number in the store; not hashed.
    """

    writer: str
    seq: int
    ts: str
    kind: str
    request_id: str | None
    session_id: str | None
    tenant: str | None
    actor: str | None
    agent: str | None
    agent_digest: str | None
    body: Mapping[str, Any]
    prev_hash: str
    hash: str
    position: int

    @property
    def event_id(self) -> str:
        """The event's name: ``<writer>-<seq>``."""
        return f"{self.writer}-{self.seq}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"event_id": self.event_id, **asdict(self)}


def genesis(writer: str) -> str:
    """Return the `prev_hash` of a writer's first event."""
    return sha256_digest(f"{FORMAT}:{writer}".encode())


CHECKPOINT_GENESIS = sha256_digest(f"{FORMAT}:checkpoints".encode())
"""The `prev_hash` of a store's first checkpoint."""


def timestamp(moment: datetime) -> str:
    """Spell a time the one way the audit does."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")


def event_hash(header: Mapping[str, Any], body: str, prev_hash: str) -> str:
    """Return the hash of one event.

    Args:
        header: The fields named in `HEADER_FIELDS`.
        body: The body's exact text.
        prev_hash: Hash of the writer's event before, or `genesis`.
    """
    # A list of strings, integers and nulls: compact JSON spells it one way only, and quickly.
    fields = [FORMAT, *(header[name] for name in HEADER_FIELDS), body, prev_hash]
    text = _FIELDS.encode(fields)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def checkpoint_hash(
    *, number: int, writer: str, seq: int, head_hash: str, ts: str, key_id: str, prev_hash: str
) -> str:
    """Return the hash of one checkpoint; its ASCII bytes are what the key signs."""
    fields = [f"{FORMAT}/checkpoint", number, writer, seq, head_hash, ts, key_id, prev_hash]
    text = _FIELDS.encode(fields)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def encode_signature(signature: bytes) -> str:
    """Spell a signature as text."""
    return base64.b64encode(signature).decode("ascii")


def decode_signature(text: str) -> bytes | None:
    """Read a signature; None if it is not one."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def spell_body(body: Mapping[str, Any]) -> str:
    """Return the body's text: JSON, whatever the values are."""
    try:
        text = _BODY.encode(body)
    except (ValueError, TypeError, RecursionError):
        text = _BODY.encode(plain(body))
    if len(text) <= MAX_BODY_BYTES:
        return text
    short = {
        "too_large": True,
        "bytes": len(text),
        "sha256": sha256_digest(text.encode("ascii")),
        "starts": text[:2000],
        "fields": sorted(str(key)[:100] for key in body)[:100],
    }
    return _BODY.encode(short)
