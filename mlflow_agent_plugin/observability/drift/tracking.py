"""Drift verdicts in MLflow: a run per check, linked to the version it is about."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.drift.check import VERDICT_FILE
from mlflow_agent_plugin.observability.drift.verdict import DriftVerdict

DRIFT_TAG = "agent.drift"
"""Run tag: true, false, suspected or unknown."""

VERSION_DRIFT_TAG = "monitoring.drift"
"""Version tag: the last check's run id (a gated registry keeps ``agent.`` for itself)."""

MODEL_TAG = "agent.model"
VERSION_TAG = "agent.version"
ARTIFACT_FOLDER = "drift"


def log_drift(
    verdict: DriftVerdict,
    *,
    model_name: str | None = None,
    version: str | int | None = None,
    experiment: str = "drift",
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
) -> str:
    """Write `verdict`, its report and its numbers to an MLflow run and return the run's id.

    The run is a new one, or the one `run_id` names, which stays as it is otherwise.

    With `model_name` and `version` the run is tagged with the version, and the version's
    ``monitoring.drift`` tag leads back to the run.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    client = MlflowClient()
    labels = {DRIFT_TAG: verdict_word(verdict), **(tags or {})}
    if model_name is not None:
        labels[MODEL_TAG] = model_name
    if version is not None:
        labels[VERSION_TAG] = str(version)
    ours = run_id is None
    if run_id is None:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        run = client.create_run(experiment_id, run_name=f"drift {labels[DRIFT_TAG]}")
        run_id = str(run.info.run_id)
    status = "FAILED"
    try:
        now = get_current_time_millis()
        numbers = {
            "drift/sessions": float(verdict.window.sessions),
            "drift/confirmed_columns": float(sum(c.confirmed for c in verdict.columns)),
            "drift/unknown_columns": float(len(verdict.unknown)),
        }
        for column in verdict.columns:
            if column.adjusted_p is not None and column.effect is not None:
                numbers[f"drift/{column.name}/adjusted_p"] = column.adjusted_p
                numbers[f"drift/{column.name}/effect"] = column.effect
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in numbers.items()],
            tags=[
                RunTag("mlflow.note.content", verdict.summary()[:5000]),
                *(RunTag(key, value) for key, value in labels.items()),
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / VERDICT_FILE
            path.write_text(json.dumps(verdict.to_dict(), indent=2, sort_keys=True) + "\n")
            client.log_artifact(run_id, str(path), ARTIFACT_FOLDER)
        if verdict.report is not None:
            client.log_artifact(run_id, verdict.report, ARTIFACT_FOLDER)
        status = "FINISHED"
    finally:
        if ours:
            client.set_terminated(run_id, status)
    if model_name is not None and version is not None:
        client.set_model_version_tag(model_name, str(version), VERSION_DRIFT_TAG, run_id)
    return run_id


def last_verdict(model_name: str, version: str | int) -> DriftVerdict | None:
    """Return the last logged verdict on a version, None if there is none.

    Raises:
        DriftInputError: The run's verdict cannot be read.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import load_dict
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        run_id = client.get_model_version(model_name, str(version)).tags.get(VERSION_DRIFT_TAG)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run_id is None:
        return None
    try:
        uri = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT_FOLDER}/{VERDICT_FILE}"
        return DriftVerdict.from_dict(load_dict(uri))
    except (MlflowException, OSError, ValueError) as error:
        raise DriftInputError(
            f"the last verdict cannot be read: {error}", where=f"run {run_id}"
        ) from error


def verdict_word(verdict: DriftVerdict) -> str:
    """Return true, false, suspected or unknown."""
    if verdict.drifted is None:
        return "suspected" if verdict.suspected else "unknown"
    return "true" if verdict.drifted else "false"
