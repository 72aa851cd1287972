"""Alembic environment of the runtime store; `store.schema` runs it.

Rules:
- A revision only adds; what is there keeps its meaning, and its rows.
- There is no way back: a downgrade would have to throw away what the older version has no place
  for, approvals and votes among it.
"""

from __future__ import annotations

from mlflow_agent_plugin.errors import StoreError


def no_way_back() -> None:
    """Refuse to downgrade; every revision's ``downgrade``.

    Raises:
        StoreError: Always.
    """
    raise StoreError(
        "the store's schema cannot be taken back: rows would be lost",
        hint="Restore the backup made before the upgrade, with the version that wrote it.",
    )
