"""The audit's rules as pure functions: how events are spelled, linked, sealed.

Rules:
- Every writer (one per process and log) numbers its events from 1 and links each to the one before:
  ``hash`` covers every field, the body's exact text and ``prev_hash``. The first event's
  ``prev_hash`` names the writer, so that no chain can continue another.
- A checkpoint seals a writer's chain up to one event: it carries that event's hash and a signature.
  All checkpoints of a store form one chain of their own, whoever wrote them: one that was
  removed is missed by the next.
- A body is compact JSON with sorted keys, in ASCII; the hash covers that exact text. What JSON
  cannot spell is written as text that says so, and a body that is too large as its shortest fields
  and its digest: a hostile argument must keep neither its denial nor which tool ran off the record.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

from mlflow_agent_plugin.entities import Actor, json_encoder, sha256_digest
from mlflow_agent_plugin.trust.spelling import plain, spell_field

FORMAT = "mlflow-agents/audit/v1"
_FORMAT = _quote(FORMAT)
MAX_BODY_BYTES = 64 * 1024
_KEPT_CHARS = 32 * 1024

_spell_value = json_encoder(allow_nan=False, separators=(",", ":"), sort_keys=True)

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

_OWN_FIELDS = HEADER_FIELDS.index("request_id")
_ALL_FIELDS = len(HEADER_FIELDS)

_KEPT_SUBJECTS = 4096


class AuditKind(str, Enum):
    """What an event records."""

    REQUEST_RECEIVED = "request_received"
    TOOL_CALL_DECIDED = "tool_call_decided"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_FINISHED = "tool_call_finished"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_CLAIMED = "approval_claimed"
    APPROVAL_ANSWERED = "approval_answered"
    APPROVAL_EDITED = "approval_edited"
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
    EVIDENCE_REVOKED = "evidence_revoked"
    DRIFT_DETECTED = "drift_detected"
    RETRAIN_STARTED = "retrain_started"
    TRIGGER_DECIDED = "trigger_decided"
    ROLLOUT_STARTED = "rollout_started"
    ROLLOUT_DECIDED = "rollout_decided"
    ROLLOUT_INCIDENT = "rollout_incident"
    ROLLOUT_REGISTRY = "rollout_registry"
    DEPLOYMENT_CHANGED = "deployment_changed"
    SWITCH_STOPPED = "switch_stopped"
    SWITCH_STARTED = "switch_started"
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

    @property
    def starts_tool(self) -> bool:
        """Whether a tool was to run once this was durable: it stands before the effect.

        With the decision that let it, where both were one transaction; records of earlier versions
        and of tools that are run elsewhere have an event of its own.
        """
        if self.kind == AuditKind.TOOL_CALL_DECIDED.value:
            return isinstance(self.body.get("starts"), Mapping)
        return self.kind == AuditKind.TOOL_CALL_STARTED.value

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
    utc = moment if moment.tzinfo is timezone.utc else moment.astimezone(timezone.utc)
    return utc.isoformat(timespec="microseconds")


def event_hash(header: Mapping[str, Any], body: str, prev_hash: str) -> str:
    """Return the hash of one event.

    Args:
        header: The fields named in `HEADER_FIELDS`.
        body: The body's exact text.
        prev_hash: Hash of the writer's event before, or `genesis`.
    """
    return hash_fields([*(header[name] for name in HEADER_FIELDS), body, prev_hash])


def hash_fields(fields: Iterable[str | int | None], *, form: str = FORMAT) -> str:
    """Return the hash of a list of strings, whole numbers and nulls, as compact ASCII JSON.

    Source: the JSON encoder of the standard library; spelled out here because making its encoder
    for every call costs more than the rest.
    """
    return sha256_digest(f"[{_join((form, *fields))}]".encode("ascii"))


class RowHasher:
    """Hashes whole rows, millions of them; `hash_fields` of each, for less.

    What a row is about is the same for all events of a turn: it is spelled once.
    """

    def __init__(self) -> None:
        self._about: dict[tuple[str | None, ...], str] = {}

    def __call__(self, row: Sequence[Any]) -> str:
        """Return the hash of a row.

        Args:
            row: Text, text or None for `HEADER_FIELDS`, body and previous hash, and an int for the
                sequence number, in the order they are hashed; what follows is ignored.
        """
        about = tuple(row[_OWN_FIELDS:_ALL_FIELDS])
        spelled = self._about.get(about)
        if spelled is None:
            if len(self._about) >= _KEPT_SUBJECTS:
                self._about.clear()
            spelled = self._about[about] = _join(about)
        writer, seq, ts, kind = row[:_OWN_FIELDS]
        body, prev_hash = row[_ALL_FIELDS], row[_ALL_FIELDS + 1]
        return _hash_spelled(writer, seq, ts, kind, spelled, body, prev_hash)


def _hash_spelled(
    writer: str, seq: int, ts: str, kind: str, about: str, body: str, prev_hash: str
) -> str:
    """Return the hash of an event; `about` is what it is about, spelled by `_join`."""
    text = (
        f"[{_FORMAT},{_quote(writer)},{seq},{_quote(ts)},{_quote(kind)},{about},"
        f"{_quote(body)},{_quote(prev_hash)}]"
    )
    return sha256_digest(text.encode("ascii"))


def _join(fields: Iterable[str | int | None]) -> str:
    parts = [
        "null" if value is None else str(value) if isinstance(value, int) else _quote(value)
        for value in fields
    ]
    return ",".join(parts)


def checkpoint_hash(
    *, number: int, writer: str, seq: int, head_hash: str, ts: str, key_id: str, prev_hash: str
) -> str:
    """Return the hash of one checkpoint; its ASCII bytes are what the key signs."""
    fields = (number, writer, seq, head_hash, ts, key_id, prev_hash)
    return hash_fields(fields, form=f"{FORMAT}/checkpoint")


def encode_signature(signature: bytes) -> str:
    """Spell a signature as text."""
    return base64.b64encode(signature).decode("ascii")


def decode_signature(text: str) -> bytes | None:
    """Read a signature; None if it is not one."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def spell_fields(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return each field of a body as JSON text, whatever the values are."""
    return {
        name: _quote(value) if type(value) is str else _spell(value)
        for name, value in fields.items()
    }


def _spell(value: Any) -> str:
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is list and not value:
        return "[]"
    if kind is float and math.isfinite(value):
        return repr(value)
    try:
        return _spell_value(value)
    except (ValueError, TypeError, RecursionError):
        return _spell_value(plain(value))


def spell_body(fields: Mapping[str, str]) -> str:
    """Return the body's text, made of what `spell_fields` gave."""
    text = _join_fields(fields)
    if len(text) <= MAX_BODY_BYTES:
        return text
    kept: dict[str, str] = {}
    left = _KEPT_CHARS
    for name in sorted(fields, key=lambda name: len(fields[name])):
        left -= len(_quote(name)) + len(fields[name])
        if left < 0:
            break
        kept[name] = fields[name]
    about = {
        "too_large": True,
        "bytes": len(text),
        "sha256": sha256_digest(text.encode("ascii")),
        "begins": text[:2000],
        "fields": sorted(name[:100] for name in fields)[:100],
    }
    return _join_fields(kept | spell_fields(about))


def _join_fields(fields: Mapping[str, str]) -> str:
    return "{" + ",".join([f"{_quote(name)}:{fields[name]}" for name in sorted(fields)]) + "}"


class AuditSubject:
    """What events are about; spelled once, for all the events of a turn or of one tool call.

    Args:
        actor: The user, or his name. An `Actor` goes into the body too, and gives the tenant.
        **body: Fields that stand in the body of every event.

    Attributes:
        columns: The last six of `HEADER_FIELDS`.
        body: Fields of the body as JSON texts.
    """

    def __init__(
        self,
        *,
        request_id: object = None,
        session_id: object = None,
        tenant: object = None,
        actor: Actor | object = None,
        agent: object = None,
        agent_digest: object = None,
        **body: Any,
    ) -> None:
        if isinstance(actor, Actor):
            tenant = actor.tenant if tenant is None else tenant
            body["actor"] = actor.to_dict()
            actor = actor.user
        about = (request_id, session_id, tenant, actor, agent, agent_digest)
        self.columns = tuple(map(spell_field, about))
        self._hashed = _join(self.columns)
        self.body = spell_fields(body)

    def narrowed(self, **body: Any) -> AuditSubject:
        """Return this subject with further fields in the body of every event."""
        narrowed = AuditSubject.__new__(AuditSubject)  # `copy` takes ten times as long
        narrowed.columns = self.columns
        narrowed._hashed = self._hashed  # noqa: SLF001 - of its own class
        narrowed.body = self.body | spell_fields(body)
        return narrowed

    def event_hash(self, own: tuple[str, int, str, str], body: str, prev_hash: str) -> str:
        """Return the hash of an event about this, the one that `event_hash` gives.

        Args:
            own: Writer, sequence number, time and kind: the first four of `HEADER_FIELDS`.
            body: The body's exact text.
            prev_hash: Hash of the writer's event before, or `genesis`.
        """
        return _hash_spelled(*own, self._hashed, body, prev_hash)
