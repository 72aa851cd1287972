"""Let several people answer one approval, reserve it, and edit the call it is about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    moment = sa.DateTime(timezone=True)
    for column in (
        sa.Column("request_id", sa.String),
        sa.Column("quorum", sa.Integer, nullable=False, server_default="1"),
        sa.Column("verified_only", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("claimed_by", sa.String),
        sa.Column("claimed_until", moment),
        sa.Column("edited_from", sa.String),
        sa.Column("replaced_by", sa.String),
    ):
        op.add_column("agent_approvals", column)
    op.create_table(
        "agent_approval_votes",
        sa.Column(
            "approval_id",
            sa.String,
            sa.ForeignKey("agent_approvals.approval_id"),
            primary_key=True,
        ),
        sa.Column("voter", sa.String, primary_key=True),
        sa.Column("yes", sa.Boolean, nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("voted_at", moment, nullable=False),
    )
    # An answer given before this revision is one vote; whether the person had logged in was not
    # kept, so he counts as one who had not.
    op.execute(
        "INSERT INTO agent_approval_votes (approval_id, voter, yes, verified, reason, voted_at) "
        "SELECT approval_id, answered_by, state <> 'rejected', false, answer_reason, answered_at "
        "FROM agent_approvals WHERE answered_by IS NOT NULL AND answered_at IS NOT NULL"
    )


downgrade = no_way_back
