"""Stage 6: the evaluated candidate becomes a version of the registered model.

Rules:
- The version is made of exactly the model that was evaluated; its evidence goes with it.
- Content that the pipeline registered before is not registered again: its version is found, and
  gets the new evidence.
"""

from __future__ import annotations

from typing import Any

from mlflow_agent_plugin.lifecycle.fencing import check_leases
from pipelines.evaluate import summary
from pipelines.stage import Params, read_json, stage, write_json

CANDIDATE_TAG = "pipeline.digest"
"""Version tag: digest of the bundle the pipeline made it of."""


def register(params: Params) -> str:
    """Make a version of the candidate and submit its evidence."""
    import mlflow

    from mlflow_agent_plugin.registry import submit_evidence

    check_leases()
    found = read_json(params.result("evaluation"))
    name = params.register_.model_name
    version = existing(name, str(found["digest"]))
    if version is None:
        made = mlflow.register_model(
            found["model_uri"], name, tags={CANDIDATE_TAG: str(found["digest"])}
        )
        version = str(made.version)
        mlflow.MlflowClient().update_model_version(name, version, description=_description(found))
    submit_evidence(name, version, str(found["run_id"]))
    write_json(
        params.result("version"),
        {"name": name, "version": int(version), "digest": found["digest"]},
    )
    return f"{name} version {version}"


def existing(name: str, digest: str) -> str | None:
    """Return the newest version the pipeline made of this content, None if there is none."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        versions = MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    mine = [int(v.version) for v in versions if v.tags.get(CANDIDATE_TAG) == digest]
    return str(max(mine)) if mine else None


def _description(found: dict[str, Any]) -> str:
    return f"Made by the retraining pipeline. {summary(found)}"


main = stage(register)

if __name__ == "__main__":
    main()
