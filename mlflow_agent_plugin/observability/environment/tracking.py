"""Environment verdicts in MLflow: a run per check, linked to the version it is about."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentVerdict,
    PartStatus,
    verdict_html,
)

ENVIRONMENT_TAG = "agent.environment"
"""Run tag: changed, unchanged or unknown."""

VERSION_ENVIRONMENT_TAG = "monitoring.environment"
"""Version tag: the last check's run id."""

ARTIFACT_FOLDER = "environment"
VERDICT_FILE = "environment.json"
PAGE_FILE = "environment.html"


def log_environment(
    verdict: EnvironmentVerdict,
    *,
    model_name: str | None = None,
    version: str | int | None = None,
    experiment: str = "drift",
) -> str:
    """Write `verdict` with a page for people to an MLflow run and return the run's id.

    With `model_name` and `version` the run is tagged with the version, and the version's
    ``monitoring.environment`` tag leads back to the run.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    client = MlflowClient()
    word = {True: "changed", False: "unchanged", None: "unknown"}[verdict.changed]
    labels = {ENVIRONMENT_TAG: word, "agent.digest": verdict.agent_digest}
    if model_name is not None:
        labels["agent.model"] = model_name
    if version is not None:
        labels["agent.version"] = str(version)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(experiment_id, run_name=f"environment {word}")
    run_id = str(run.info.run_id)
    status = "FAILED"
    try:
        now = get_current_time_millis()
        client.log_batch(
            run_id,
            metrics=[
                Metric(f"environment/{each.value}", float(len(verdict.with_status(each))), now, 0)
                for each in PartStatus
            ],
            tags=[
                RunTag("mlflow.note.content", verdict.summary()[:5000]),
                *(RunTag(key, value) for key, value in labels.items()),
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(verdict.to_dict(), indent=2, sort_keys=True) + "\n"
            page = (
                "<!doctype html><html><head><meta charset='utf-8'><title>Environment</title></head>"
                f"<body>{verdict_html(verdict)}</body></html>"
            )
            for name, content in ((VERDICT_FILE, text), (PAGE_FILE, page)):
                path = Path(folder) / name
                path.write_text(content, encoding="utf-8")
                client.log_artifact(run_id, str(path), ARTIFACT_FOLDER)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    if model_name is not None and version is not None:
        client.set_model_version_tag(model_name, str(version), VERSION_ENVIRONMENT_TAG, run_id)
    return run_id


def last_environment(model_name: str, version: str | int) -> EnvironmentVerdict | None:
    """Return the last logged verdict on a version, None if there is none that can be read."""
    from mlflow import MlflowClient
    from mlflow.artifacts import load_dict
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        tags = client.get_model_version(model_name, str(version)).tags
        run_id = tags.get(VERSION_ENVIRONMENT_TAG)
        if run_id is None:
            return None
        uri = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT_FOLDER}/{VERDICT_FILE}"
        return EnvironmentVerdict.from_dict(load_dict(uri))
    except (MlflowException, OSError, ValueError, DriftInputError):
        # Only compared with: a verdict that is lost is logged again.
        return None
