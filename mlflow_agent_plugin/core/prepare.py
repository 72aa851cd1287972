"""Makes the tables serving processes need, so that those need no right to make any.

    python -m mlflow_agent_plugin.core.prepare

Brings the runtime store and the sessions' tables up to date; says which store it was. Running it
again, or twice at once, changes nothing. A deployment runs it before new processes start.
"""

from __future__ import annotations

import sys

from mlflow_agent_plugin.errors import AgentError


def prepare(uri: str | None = None) -> str:
    """Bring the tables of the store at `uri` up to date; return the URI without its password.

    Args:
        uri: Database URL; default: ``MLFLOW_AGENTS_STORE_URI``.

    Raises:
        StoreError: The database does not answer, or is of a newer version.
        ConfigError: The URI makes no sense.
    """
    from mlflow_agent_plugin.core.checkpoints import close_checkpointer, open_checkpointer
    from mlflow_agent_plugin.store import Store

    with Store.open(uri) as store:
        close_checkpointer(open_checkpointer(store))
        return store.uri


if __name__ == "__main__":
    try:
        print(f"{prepare()} is up to date")  # noqa: T201 - a command
    except AgentError as error:
        sys.exit(str(error))
