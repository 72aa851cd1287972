"""What a process does that promotes at the same time as others."""

from __future__ import annotations

import os


def attempt(registry_uri, environment, start, versions, to="Production", name="shelf"):
    """Wait for the start, then promote each version in turn; return what became of each."""
    os.environ.update(environment)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from mlflow_agent_plugin.registry import promote

    client = MlflowClient(registry_uri=registry_uri)
    client.get_registered_model(name)
    start.wait(120)
    outcomes = []
    for version in versions:
        try:
            promote(name, version, to=to, client=client)
        except MlflowException as error:
            outcomes.append((version, error.error_code, str(error)))
        else:
            outcomes.append((version, "OK", ""))
    return outcomes
