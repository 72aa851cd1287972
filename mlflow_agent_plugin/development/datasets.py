"""Suites as MLflow evaluation datasets, for people who work in MLflow's own UI.

Rules:
- One record a scenario: what the user says as ``inputs``, what has to come of it as
  ``expectations``, tags as tags. The scenario itself stays the source: a dataset is a view of it.
- Registering a suite again updates its records; a record is recognised by its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.suite import Suite
from mlflow_agent_plugin.errors import SuiteError

if TYPE_CHECKING:
    from mlflow.entities import EvaluationDataset


def register_suite(
    suite: Suite, *, name: str | None = None, experiment_ids: Sequence[str] | None = None
) -> EvaluationDataset:
    """Make or update the MLflow evaluation dataset of a suite.

    Args:
        suite: The suite.
        name: Name of the dataset; default: the suite's.
        experiment_ids: Experiments it shows up in; default: the current one.

    Raises:
        SuiteError: The tracking server keeps no datasets (a file store does not).
    """
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import create_dataset, search_datasets, set_dataset_tags

    wanted = name or suite.name
    tags = {"agent.suite": suite.name, "agent.suite_digest": suite.digest}
    try:
        quoted = wanted.replace("'", "''")
        found = list(search_datasets(filter_string=f"name = '{quoted}'", max_results=1))
        if found:
            dataset = found[0]
            set_dataset_tags(dataset_id=dataset.dataset_id, tags=tags)
        else:
            dataset = create_dataset(
                name=wanted,
                experiment_id=None if experiment_ids is None else list(experiment_ids),
                tags=tags,
            )
        return dataset.merge_records([_record(suite, at) for at in range(len(suite))])
    except MlflowException as error:
        raise SuiteError(
            f"the suite cannot be registered as a dataset: {error.message}",
            where=wanted,
            hint="Use a tracking server with a database; evaluation itself does not need it.",
        ) from error


def _record(suite: Suite, at: int) -> dict[str, Any]:
    scenario = suite.scenarios[at]
    return {
        "inputs": {
            "case": scenario.id,
            "turns": [turn.user for turn in scenario.turns],
            "actor": scenario.actor.model_dump(mode="json"),
        },
        "expectations": scenario.expect.model_dump(mode="json", exclude_unset=True)
        | ({"intent": scenario.intent} if scenario.intent is not None else {}),
        "tags": dict.fromkeys(scenario.tags, "true"),
    }
