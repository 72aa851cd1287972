"""The reference of a version: the rows its evaluation run kept when it was evaluated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.schema import REFERENCE_ARTIFACT, read_rows

if TYPE_CHECKING:
    import pandas as pd

EVIDENCE_TAG = "agent.evidence"
"""Version tag: the run id of its evaluation (set by `development.evaluate`)."""


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


def _evaluation_of(model_uri: str) -> str:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, version = resolve_version(model_uri)
    try:
        tags = MlflowClient().get_model_version(name, version).tags
    except MlflowException as error:
        raise DriftInputError(str(error.message), where=model_uri) from error
    if EVIDENCE_TAG not in tags:
        raise DriftInputError(
            "this version was never evaluated",
            where=model_uri,
            hint="Run mlflow_agent_plugin.evaluate on it first.",
        )
    return str(tags[EVIDENCE_TAG])
