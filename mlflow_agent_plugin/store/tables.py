"""The tables of the runtime store, as the newest migration leaves them.

Rules:
- Every table starts with ``agent_``: the store may live in a database beside MLflow's own tables.
- A migration in ``migrations/versions`` makes each change; a test compares the two.
- Times are timezone-aware UTC; the audit's time is text, because it is hashed.
- JSON is kept as text: what was written is what is read, on every database.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    literal_column,
    text,
)

from mlflow_agent_plugin.errors import StoreError

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Schema revisions this code knows, oldest first."""

VERSION_TABLE = "agent_schema_version"
"""Where Alembic keeps the revision; its default is MLflow's when both share a database."""

metadata = MetaData()

# SQLite gives only INTEGER PRIMARY KEY the automatic row number.
RowNumber = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time in UTC, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; write UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise StoreError("a time without time zone cannot be stored", where=str(value))
        utc = value.astimezone(timezone.utc)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        del dialect
        if value is None:
            return None
        assert isinstance(value, datetime)
        if value.tzinfo is None:
            return value.replace(tzinfo=timezone.utc)
        return value.astimezone(timezone.utc)


sessions = Table(
    "agent_sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("user_name", String, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("agent", String, nullable=False),
    Column("agent_digest", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("lease_owner", String),
    Column("lease_until", UtcDateTime),
    Index("agent_sessions_by_tenant", "tenant", "last_at"),
)

approvals = Table(
    "agent_approvals",
    metadata,
    Column("approval_id", String, primary_key=True),
    Column("action_digest", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("agent", String, nullable=False),
    Column("agent_digest", String, nullable=False),
    Column("policy_digest", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("call_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("role", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("answered_by", String),
    Column("answered_at", UtcDateTime),
    Column("answer_reason", Text),
    Column("executed_at", UtcDateTime),
    Column("request_id", String),
    Column("quorum", Integer, nullable=False, server_default="1"),
    Column("verified_only", Boolean, nullable=False, server_default=false()),
    Column("claimed_by", String),
    Column("claimed_until", UtcDateTime),
    Column("edited_from", String),
    Column("replaced_by", String),
    UniqueConstraint("session_id", "call_id", "action_digest", name="agent_approvals_action"),
    Index("agent_approvals_queue", "tenant", "state", "created_at"),
)

approval_votes = Table(
    "agent_approval_votes",
    metadata,
    Column("approval_id", String, ForeignKey("agent_approvals.approval_id"), primary_key=True),
    Column("voter", String, primary_key=True),
    Column("yes", Boolean, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("reason", Text),
    Column("voted_at", UtcDateTime, nullable=False),
)

_STARTED: ColumnElement[str] = literal_column("'started'")
_RUNNING = text("state = 'started'")

effects = Table(
    "agent_effects",
    metadata,
    Column("effect_key", String, primary_key=True),
    Column("tool", String, nullable=False),
    Column("arguments_digest", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("resolved_by", String),
    Index(
        "agent_effects_running",
        "started_at",
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    ),
)

effect_runs = effects.c.state == _STARTED
"""True of a call that has not ended. In words: SQLite knows no bound value for the index's own."""

audit_events = Table(
    "agent_audit_events",
    metadata,
    Column("position", RowNumber, primary_key=True, autoincrement=True),
    Column("writer", String, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("ts", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("request_id", String),
    Column("session_id", String),
    Column("tenant", String),
    Column("actor", String),
    Column("agent", String),
    Column("agent_digest", String),
    Column("body", Text, nullable=False),
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False),
    UniqueConstraint("writer", "seq", name="agent_audit_events_chain"),
    Index("agent_audit_events_by_session", "session_id"),
    Index("agent_audit_events_by_request", "request_id"),
    sqlite_autoincrement=True,  # a row number is never used twice: removed rows leave a gap
)

audit_checkpoints = Table(
    "agent_audit_checkpoints",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("writer", String, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("head_hash", String, nullable=False),
    Column("ts", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False),
    Column("signature", String, nullable=False),
    Index("agent_audit_checkpoints_by_writer", "writer", "seq"),
)

switches = Table(
    "agent_switches",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("stopped", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_by", String, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

session_spend = Table(
    "agent_session_spend",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
)

leases = Table(
    "agent_leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

masked_values = Table(
    "agent_masked_values",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("token", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("session_id", "fingerprint", name="agent_masked_values_once"),
)

rollouts = Table(
    "agent_rollouts",
    metadata,
    Column("rollout_id", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("stable_slot", String, nullable=False),
    Column("candidate_slot", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("share", Float, nullable=False),
    Column("rules", Text, nullable=False),
    Column("on_success", String, nullable=False),
    Column("incumbent_version", Integer, nullable=False),
    Column("candidate_version", Integer, nullable=False),
    Column("candidate_digest", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("watch", Text, nullable=False),
    # what is still to be done in the registry, and how the last attempt went
    Column("registry_step", String, nullable=False),
    Column("registry_note", Text, nullable=False),
    Column("started_by", String, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    # model and slot while the rollout is open, then empty: one at a time
    Column("open_for", String, unique=True),
    Index("agent_rollouts_by_model", "model", "started_at"),
)

rollout_sessions = Table(
    "agent_rollout_sessions",
    metadata,
    Column("rollout_id", String, ForeignKey("agent_rollouts.rollout_id"), primary_key=True),
    Column("session_id", String, primary_key=True),
    Column("arm", String, nullable=False),
    Column("assigned_at", UtcDateTime, nullable=False),
    Column("counted_at", UtcDateTime),
)

deployments = Table(
    "agent_deployments",
    metadata,
    Column("name", String, primary_key=True),
    Column("model_uri", String, nullable=False),
    Column("config", Text, nullable=False),
    Column("changed_by", String, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

outbox = Table(
    "agent_outbox",
    metadata,
    Column("target", String, primary_key=True),
    Column("event_id", String, primary_key=True),
    Column("event", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Index("agent_outbox_due", "target", "state", "next_at"),
)
