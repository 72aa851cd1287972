"""Add the kill switches, and what each session has spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    op.create_table(
        "agent_switches",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("stopped", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "agent_session_spend",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
    )


downgrade = no_way_back
