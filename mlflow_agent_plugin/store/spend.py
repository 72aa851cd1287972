"""What each session has spent on its model and tools, so that a budget survives restarts."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import session_spend


@dataclass(frozen=True)
class SessionSpend:
    """Tokens of the model, in and out, and money in millionths of a dollar."""

    tokens: int = 0
    cost_micro_usd: int = 0


class SpendTable:
    """The spending of the sessions of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, session_id: str) -> SessionSpend:
        """Return what a session has spent so far."""
        query = select(session_spend).where(session_spend.c.session_id == session_id)
        with self._store.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return SessionSpend()
        return SessionSpend(tokens=row.tokens, cost_micro_usd=row.cost_micro_usd)

    def add(self, session_id: str, spend: SessionSpend) -> None:
        """Add to what a session has spent; several at once add up."""
        make = sqlite_insert if self._store.dialect == "sqlite" else postgres_insert
        statement = make(session_spend).values(session_id=session_id, **vars(spend))
        statement = statement.on_conflict_do_update(
            index_elements=[session_spend.c.session_id],
            set_={
                "tokens": session_spend.c.tokens + spend.tokens,
                "cost_micro_usd": session_spend.c.cost_micro_usd + spend.cost_micro_usd,
            },
        )
        with self._store.begin() as connection:
            connection.execute(statement)
