"""Alembic environment of the runtime store; `store.schema` runs it."""
