"""Keep an index of the calls that run, and none of the millions that ended.

Every call went through the old index twice, and left its entry there for good; what is looked for
are the few that never ended.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mlflow_agent_plugin.store.migrations import no_way_back

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; there is no way back but a backup."""
    running = sa.text("state = 'started'")
    # First, for it takes the stronger lock: to take that second could be a deadlock.
    op.drop_index("agent_effects_by_state", "agent_effects")
    op.create_index(
        "agent_effects_running",
        "agent_effects",
        ["started_at"],
        sqlite_where=running,
        postgresql_where=running,
    )


downgrade = no_way_back
