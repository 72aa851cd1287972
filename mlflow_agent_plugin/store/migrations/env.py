"""Run by Alembic; the caller's connection and transaction are used, never an own one."""

from alembic import context

from mlflow_agent_plugin.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # also on SQLite, where `store.engine` begins the transaction itself
    render_as_batch=True,
)
context.run_migrations()
