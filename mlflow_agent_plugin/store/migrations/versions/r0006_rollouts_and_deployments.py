"""Keep rollouts, their sessions, and what front ends were told to serve."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "agent_rollouts",
        sa.Column("rollout_id", sa.String, primary_key=True),
        *(
            sa.Column(name, kind, nullable=False)
            for name, kind in (
                ("model", sa.String),
                ("stable_slot", sa.String),
                ("candidate_slot", sa.String),
                ("mode", sa.String),
                ("share", sa.Float),
                ("rules", sa.Text),
                ("on_success", sa.String),
                ("incumbent_version", sa.Integer),
                ("candidate_version", sa.Integer),
                ("candidate_digest", sa.String),
                ("state", sa.String),
                ("reason", sa.Text),
                ("watch", sa.Text),
                ("registry_step", sa.String),
                ("registry_note", sa.Text),
                ("started_by", sa.String),
                ("started_at", moment),
                ("changed_at", moment),
            )
        ),
        sa.Column("open_for", sa.String, unique=True),
    )
    op.create_index("agent_rollouts_by_model", "agent_rollouts", ["model", "started_at"])
    op.create_table(
        "agent_rollout_sessions",
        sa.Column(
            "rollout_id", sa.String, sa.ForeignKey("agent_rollouts.rollout_id"), primary_key=True
        ),
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("assigned_at", moment, nullable=False),
        sa.Column("counted_at", moment),
    )
    op.create_table(
        "agent_deployments",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("model_uri", sa.String, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("changed_at", moment, nullable=False),
    )


downgrade = no_way_back
