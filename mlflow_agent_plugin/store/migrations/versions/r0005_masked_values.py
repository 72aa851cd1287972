"""Add the values a session's tokens stand for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    op.create_table(
        "agent_masked_values",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("token", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("session_id", "fingerprint", name="agent_masked_values_once"),
    )


downgrade = no_way_back
