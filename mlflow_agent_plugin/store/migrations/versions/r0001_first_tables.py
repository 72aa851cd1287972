"""Make the first tables: sessions, approvals, effects, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_AUDIT_TABLES = ("agent_audit_events", "agent_audit_checkpoints")


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    # As revision 0001 knew them: this file must not follow later changes of `store.tables`.
    row_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "agent_sessions",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("user_name", sa.String, nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("agent_digest", sa.String, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("last_at", moment, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String),
        sa.Column("lease_until", moment),
    )
    op.create_index("agent_sessions_by_tenant", "agent_sessions", ["tenant", "last_at"])
    op.create_table(
        "agent_approvals",
        sa.Column("approval_id", sa.String, primary_key=True),
        sa.Column("action_digest", sa.String, nullable=False),
        sa.Column("tool", sa.String, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("agent_digest", sa.String, nullable=False),
        sa.Column("policy_digest", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("call_id", sa.String, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("requested_by", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("answered_by", sa.String),
        sa.Column("answered_at", moment),
        sa.Column("answer_reason", sa.Text),
        sa.Column("executed_at", moment),
        sa.UniqueConstraint(
            "session_id", "call_id", "action_digest", name="agent_approvals_action"
        ),
    )
    op.create_index("agent_approvals_queue", "agent_approvals", ["tenant", "state", "created_at"])
    op.create_table(
        "agent_effects",
        sa.Column("effect_key", sa.String, primary_key=True),
        sa.Column("tool", sa.String, nullable=False),
        sa.Column("arguments_digest", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("resolved_by", sa.String),
    )
    op.create_index("agent_effects_by_state", "agent_effects", ["state", "started_at"])
    op.create_table(
        "agent_audit_events",
        sa.Column("position", row_number, primary_key=True, autoincrement=True),
        sa.Column("writer", sa.String, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("ts", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("session_id", sa.String),
        sa.Column("tenant", sa.String),
        sa.Column("actor", sa.String),
        sa.Column("agent", sa.String),
        sa.Column("agent_digest", sa.String),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.UniqueConstraint("writer", "seq", name="agent_audit_events_chain"),
        sqlite_autoincrement=True,
    )
    op.create_index("agent_audit_events_by_session", "agent_audit_events", ["session_id"])
    op.create_index("agent_audit_events_by_request", "agent_audit_events", ["request_id"])
    op.create_table(
        "agent_audit_checkpoints",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("writer", sa.String, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("head_hash", sa.String, nullable=False),
        sa.Column("ts", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("prev_hash", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("signature", sa.String, nullable=False),
    )
    op.create_index(
        "agent_audit_checkpoints_by_writer", "agent_audit_checkpoints", ["writer", "seq"]
    )
    _make_append_only(op.get_bind().dialect.name)


def _make_append_only(dialect: str) -> None:
    """Let the database itself refuse changes to the audit; its owner can drop the triggers."""
    if dialect == "sqlite":
        for table in _AUDIT_TABLES:
            for action in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION agent_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    for table in _AUDIT_TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION agent_audit_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION agent_audit_refuse()"
        )


downgrade = no_way_back
