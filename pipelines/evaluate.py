"""Stage 5: the candidate is logged (not registered) and evaluated, beside the incumbent.

Rules:
- The registry is not touched: what fails here has left no trace in it.
- The incumbent runs the suite of new traffic too, and its results are paired with the candidate's,
  case by case. They inform the request; the gate compares by its own rules.
- New traffic is the share of the feedback that was kept back: nobody trained on it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.statistics import paired_difference
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE
from pipelines.data import read_labelled
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    from mlflow_agent_plugin.development import EvaluationResult

WHOLE_SUITE = "workflow"
NEW_TRAFFIC_SUITE = "new-traffic"
PARENT_TAG = "mlflow.parentRunId"


def evaluate(params: Params) -> str:
    """Log the candidate and evaluate it on every suite."""
    import mlflow

    from mlflow_agent_plugin.core import log_agent
    from mlflow_agent_plugin.development import evaluate as run_suites

    wanted = params.evaluate
    suites, new_traffic = make_suites(params)
    mlflow.set_experiment(wanted.experiment)
    info = log_agent(params.bundle, name=params.register_.model_name)
    options: dict[str, Any] = {
        "workers": wanted.workers,
        "limit": wanted.limit or None,
        "progress": False,
        "experiment": wanted.experiment,
        "submit": False,
    }
    result = run_suites(info.model_uri, suites=suites, **options)
    _adopt(result.run_id)
    found: dict[str, Any] = {
        "model_uri": info.model_uri,
        "model_id": info.model_id,
        "digest": result.digest,
        "run_id": result.run_id,
        "suites": metrics_of(result),
        "incumbent": None,
        "comparison": {},
    }
    incumbent = _incumbent(params) if wanted.incumbent else None
    if incumbent is not None:
        before = run_suites(incumbent, suites=new_traffic or suites, **options)
        _adopt(before.run_id)
        found["incumbent"] = {
            "model_uri": incumbent,
            "run_id": before.run_id,
            "suites": metrics_of(before),
        }
        found["comparison"] = compare(result, before)
    write_json(Path(params.build) / "metrics.json", flat_metrics(found))
    _write_plot(result, Path(params.build) / "success_by_tag.csv")
    write_json(params.result("evaluation"), found)
    return summary(found)


def make_suites(params: Params) -> tuple[list[Path], list[Path]]:
    """Return the suite files to run, and which of them are new traffic.

    Raises:
        ConfigError: The suite builder is not one, or there is no suite at all.
        SuiteError: An intent of the data has no expectation.
    """
    folder = Path(params.build) / "suites"
    folder.mkdir(parents=True, exist_ok=True)
    suites = [Path(name) for name in params.evaluate.suites]
    new: list[Path] = []
    if params.evaluate.suite_builder:
        if not suites:
            rows = _rows(params.dataset / "test.csv")
            suites = _build(params, rows, folder / f"{WHOLE_SUITE}.yaml")
        held = _rows(params.dataset / "holdout.csv")
        new = _build(params, held, folder / f"{NEW_TRAFFIC_SUITE}.yaml")
    if not suites and not new:
        raise ConfigError("there is no suite to evaluate on", where="params.yaml: evaluate.suites")
    return [*suites, *new], new


def metrics_of(result: EvaluationResult) -> dict[str, dict[str, Any]]:
    """Return every suite's metrics as JSON values."""
    return {
        name: {key: metric.to_dict() for key, metric in suite.metrics.items()}
        for name, suite in result.suites.items()
    }


def compare(candidate: EvaluationResult, incumbent: EvaluationResult) -> dict[str, Any]:
    """Return the paired difference of task success on every suite both ran."""
    found = {}
    for name in sorted(set(candidate.suites) & set(incumbent.suites)):
        ours = {row.case_id: row.success for row in candidate.suites[name].rows}
        theirs = {row.case_id: row.success for row in incumbent.suites[name].rows}
        both = sorted(set(ours) & set(theirs))
        only_ours = sum(ours[case] and not theirs[case] for case in both)
        only_theirs = sum(theirs[case] and not ours[case] for case in both)
        difference = paired_difference(only_ours, only_theirs, len(both))
        found[name] = {
            "difference": difference.difference,
            "low": difference.low,
            "high": difference.high,
            "n": len(both),
            "p_value": difference.p_value,
        }
    return found


def flat_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers `dvc metrics` shows."""
    numbers = {}
    for suite, metrics in found["suites"].items():
        for name, metric in metrics.items():
            if isinstance(metric.get("value"), (int, float)):
                numbers[f"{suite}/{name}"] = float(metric["value"])
    for suite, difference in found["comparison"].items():
        numbers[f"{suite}/task_success_vs_incumbent"] = float(difference["difference"])
    return numbers


def summary(found: Mapping[str, Any]) -> str:
    """Return the evaluation as one line."""
    parts = []
    for name, metrics in found["suites"].items():
        success = metrics["task_success"]
        part = f"{name}: task success {_interval(success)} on {success['n']} cases"
        difference = found["comparison"].get(name)
        if difference is not None:
            low, high = difference["low"], difference["high"]
            part += (
                f", {difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}] against the incumbent"
            )
        parts.append(part)
    return "; ".join(parts)


def _interval(metric: Mapping[str, Any]) -> str:
    if metric.get("value") is None:
        return "unknown"
    text = f"{metric['value']:.3f}"
    if metric.get("low") is not None and metric.get("high") is not None:
        text += f" [{metric['low']:.3f}, {metric['high']:.3f}]"
    return text


def _rows(path: Path) -> list[tuple[str, str]]:
    if path.is_file() and path.read_bytes().count(b"\n") > 1:
        frame = read_labelled(path)
        return list(frame[["text", "category"]].itertuples(index=False, name=None))
    return []


def _build(params: Params, rows: Sequence[tuple[str, str]], path: Path) -> list[Path]:
    """Write a suite of labelled requests; an empty list makes none."""
    if not rows:
        return []
    name = params.evaluate.suite_builder
    try:
        module = importlib.import_module(name)
        builder = module.SuiteBuilder.for_agent(Path(params.agent))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"is no suite builder: {error}", where=f"params.yaml: evaluate.suite_builder {name!r}"
        ) from error
    inside = [row for row in rows if row[1] != OUT_OF_SCOPE]
    outside = [text for text, label in rows if label == OUT_OF_SCOPE]
    scenarios = [*builder.in_scope(inside), *builder.out_of_scope(outside)]
    model = params.register_.model_name
    module.write_suite(scenarios, path, name=f"{model}-{path.stem}")
    return [path]


def _incumbent(params: Params) -> str | None:
    """Return the URI of the version that stands where the candidate is to go, None if none does."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, slot = params.register_.model_name, params.register_.to
    client = MlflowClient()
    try:
        if slot.startswith("@"):
            version = client.get_model_version_by_alias(name, slot[1:]).version
        else:
            found = client.get_latest_versions(name, [slot])
            version = found[0].version if found else None
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return None if version is None else f"models:/{name}/{version}"


def _adopt(run_id: str) -> None:
    """Show the evaluation below the pipeline's own run."""
    from mlflow import MlflowClient

    parent = os.environ.get("MLFLOW_AGENTS_PIPELINE_RUN")
    if parent:
        MlflowClient().set_tag(run_id, PARENT_TAG, parent)


def _write_plot(result: EvaluationResult, path: Path) -> None:
    import csv

    counts: dict[str, list[int]] = {}
    for suite in result.suites.values():
        for row in suite.rows:
            for tag in row.tags:
                counts.setdefault(tag, []).append(int(row.success))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tag", "task_success", "cases"])
        for tag, found in sorted(counts.items()):
            writer.writerow([tag, sum(found) / len(found), len(found)])


main = stage(evaluate)

if __name__ == "__main__":
    main()
