"""The reference of a version: the rows its evaluation run kept when it was evaluated."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.schema import REFERENCE_ARTIFACT, read_rows

if TYPE_CHECKING:
    import pandas as pd

EVIDENCE_TAG = "agent.evidence"
"""Version tag: the run id of its last evaluation (set by `development.evaluate`). A gated registry
keeps it per suite, as ``agent.evidence.<suite>``."""

REFERENCE_TAG = "monitoring.reference"
"""Version tag: the run whose reference rows drift is measured against, if not the last one. (A
gated registry keeps tags that begin with ``agent.`` to itself.)"""


def load_reference(source: str | Path) -> pd.DataFrame:
    """Return reference rows.

    Args:
        source: A parquet file, ``runs:/<run id>`` of an evaluation, or ``models:/<name>/<version>``
            (also ``models:/<name>@<alias>``) of an evaluated version.

    Raises:
        DriftInputError: There is no reference there.
        DataError: The file cannot be read.
    """
    text = str(source)
    if not text.startswith(("runs:/", "models:/")):
        return read_rows(source)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    run_id = text[len("runs:/") :].strip("/") if text.startswith("runs:/") else _evaluation_of(text)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = download_artifacts(
                run_id=run_id, artifact_path=REFERENCE_ARTIFACT, dst_path=folder
            )
        except (MlflowException, OSError) as error:
            raise DriftInputError(
                f"the evaluation run {run_id} keeps no {REFERENCE_ARTIFACT}",
                where=text,
                hint="Evaluate the version again with this version of mlflow-agent-plugin.",
            ) from error
        return read_rows(path)


def resolve_version(model_uri: str) -> tuple[str, str]:
    """Return name and version of ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.

    Raises:
        DriftInputError: The URI does not name one version.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    try:
        name, version = get_model_name_and_version(MlflowClient(), model_uri)
    except (MlflowException, AttributeError, TypeError) as error:
        raise DriftInputError(f"is no registered version: {error}", where=model_uri) from error
    if not name or not version:
        raise DriftInputError("is no registered version", where=model_uri)
    return str(name), str(version)


def reference_run(name: str, version: str) -> str | None:
    """Return the evaluation run that holds a version's reference, None if it was never evaluated.

    Raises:
        MlflowException: There is no such version.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    tags = client.get_model_version(name, version).tags
    if REFERENCE_TAG in tags:
        return str(tags[REFERENCE_TAG])
    runs = evidence_runs(tags)
    if not runs:
        return None
    return max(runs, key=lambda run_id: int(client.get_run(run_id).info.start_time))


def evidence_runs(tags: Mapping[str, str]) -> list[str]:
    """Return the evaluation runs a version's tags name."""
    return sorted(
        {
            str(value)
            for key, value in tags.items()
            if key == EVIDENCE_TAG or key.startswith(f"{EVIDENCE_TAG}.")
        }
    )


def _evaluation_of(model_uri: str) -> str:
    from mlflow.exceptions import MlflowException

    name, version = resolve_version(model_uri)
    try:
        run_id = reference_run(name, version)
    except MlflowException as error:
        raise DriftInputError(str(error.message), where=model_uri) from error
    if run_id is None:
        raise DriftInputError(
            "this version was never evaluated",
            where=model_uri,
            hint="Run mlflow_agent_plugin.evaluate on it first.",
        )
    return run_id
