"""The evaluator ``agent`` of ``mlflow.models.evaluate`` (entry point ``mlflow.model_evaluator``).

    mlflow.models.evaluate(
        model="models:/support/3", data=suite_frame(suite), model_type="agent", evaluators="agent",
    )

Rules:
- The data are scenarios, one a row, in a column ``scenario``; `suite_frame` writes them.
- The content that is evaluated is the loaded model's own bundle. It plays as in `agents.evaluate`;
  metrics and artifacts go to MLflow's run. There is no signed evidence: that is what
  `agents.evaluate` is for.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact
from mlflow.models.evaluation.base import EvaluationResult, ModelEvaluator

from mlflow_agent_plugin.errors import AgentError, SuiteError, as_mlflow

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.development.suite import Suite

COLUMN = "scenario"
OPTIONS = ("suite", "workers", "seed")


def suite_frame(suite: Suite) -> pd.DataFrame:
    """Return a suite as data for ``mlflow.models.evaluate``: one scenario a row."""
    import pandas as pd

    texts = [
        json.dumps(scenario.model_dump(mode="json", exclude_unset=True), sort_keys=True)
        for scenario in suite.scenarios
    ]
    return pd.DataFrame({COLUMN: texts})


class AgentEvaluator(ModelEvaluator):  # type: ignore[misc] # mlflow is not followed
    """Plays scenarios against a logged agent."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Any, **kwargs: Any) -> bool:
        """Say whether this evaluator is for models of that type."""
        del evaluator_config, kwargs
        return model_type == "agent"

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: dict[str, Any] | None,
        model: Any = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Play the scenarios of `dataset`; ``evaluator_config`` takes suite, workers and seed.

        Raises:
            MlflowException: The model is no agent, or the data are no scenarios.
        """
        del model_type, kwargs
        try:
            return _evaluate(model, dataset, run_id, dict(evaluator_config or {}))
        except AgentError as error:
            raise as_mlflow(error) from error


def _evaluate(model: Any, dataset: Any, run_id: str, config: dict[str, Any]) -> EvaluationResult:
    # Here and not above: MLflow loads this module for evaluations of every kind of model.
    from mlflow import MlflowClient

    from mlflow_agent_plugin.development.recording import FOLDER, write_artifacts
    from mlflow_agent_plugin.development.results import flat_metrics
    from mlflow_agent_plugin.development.runner import run_suite
    from mlflow_agent_plugin.package import Bundle
    from mlflow_agent_plugin.trust import KeyStore

    strange = sorted(set(config) - set(OPTIONS))
    if strange:
        raise SuiteError(
            f"is not known; known are {', '.join(OPTIONS)}", where=f"evaluator_config.{strange[0]}"
        )
    raw = getattr(model, "get_raw_model", lambda: None)()
    if not isinstance(raw, Bundle):
        raise SuiteError(
            "the model is not an agent", where="model", hint="Give the URI of a logged agent."
        )
    suite = _read_suite(dataset, str(config.get("suite", "mlflow-evaluate")))
    client = MlflowClient()
    with (
        run_suite(
            raw,
            suite,
            workers=int(config.get("workers", 1)),
            seed=int(config.get("seed", 0)),
            progress=False,
        ) as played,
        tempfile.TemporaryDirectory() as scratch,
    ):
        folder = Path(scratch)
        result = write_artifacts(folder, played, raw, run_id, None, KeyStore().signing_key())
        client.log_artifacts(run_id, str(folder), f"{FOLDER}/{suite.name}")
    metrics = flat_metrics(result)
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    uri = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}/{suite.name}/results.jsonl"
    table = JsonEvaluationArtifact(uri=uri, content=[row.model_dump() for row in result.rows])
    return EvaluationResult(metrics=metrics, artifacts={"results": table})


def _read_suite(dataset: Any, name: str) -> Suite:
    from mlflow_agent_plugin.development.scenario import Scenario
    from mlflow_agent_plugin.development.suite import Suite

    data = dataset.features_data
    columns = [str(column) for column in getattr(data, "columns", [])]
    if COLUMN not in columns:
        raise SuiteError(
            f"the data have no column {COLUMN!r}", where="data", hint="Use suite_frame(suite)."
        )
    scenarios = []
    for number, text in enumerate(data[COLUMN]):
        try:
            scenarios.append(Scenario.model_validate_json(str(text)))
        except ValueError as error:
            raise SuiteError(
                f"is no scenario: {str(error).splitlines()[0]}", where=f"data, row {number}"
            ) from error
    return Suite(name=name, scenarios=tuple(scenarios))
