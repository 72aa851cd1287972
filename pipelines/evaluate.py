"""Stage 5: the candidate is logged (not registered) and evaluated, beside the incumbent.

Rules:
- The registry gets no candidate yet: what fails here has left none in it.
- The incumbent is evaluated on every suite it has no evidence on (the gate compares both on the
  same cases), and its results are paired with the candidate's, case by case.
- New traffic is the share of the feedback that was kept back: nobody trained on it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.statistics import paired_difference
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE
from pipelines.data import read_labelled
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    from mlflow_agent_plugin.development import EvaluationResult
    from mlflow_agent_plugin.trust.evidence import CaseResult

WHOLE_SUITE = "workflow"
NEW_TRAFFIC_SUITE = "new-traffic"
PARENT_TAG = "mlflow.parentRunId"


def evaluate(params: Params) -> str:
    """Log the candidate and evaluate it on every suite."""
    import mlflow

    from mlflow_agent_plugin.core import log_agent
    from mlflow_agent_plugin.development import evaluate as run_suites

    wanted = params.evaluate
    suites = make_suites(params)
    mlflow.set_experiment(wanted.experiment)
    info = log_agent(params.bundle, name=params.register_.model_name)
    options: dict[str, Any] = {
        "workers": wanted.workers,
        "limit": wanted.limit or None,
        "progress": False,
        "experiment": wanted.experiment,
    }
    result = run_suites(info.model_uri, suites=suites, submit=False, **options)
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
        before = evaluate_incumbent(incumbent, suites, result, options)
        found["incumbent"] = {"model_uri": incumbent}
        found["comparison"] = {
            name: compare(result.suites[name].rows, rows) for name, rows in before.items()
        }
    write_json(Path(params.build) / "metrics.json", flat_metrics(found))
    _write_plot(result, Path(params.build) / "success_by_tag.csv")
    write_json(params.result("evaluation"), found)
    return summary(found)


def evaluate_incumbent(
    model_uri: str, suites: Sequence[Path], candidate: EvaluationResult, options: Mapping[str, Any]
) -> dict[str, Sequence[CaseResult]]:
    """Return the incumbent's results on the candidate's suites, evaluating it where it has none.

    Its new evidence is submitted. The run its drift reference comes from stays the same.
    """
    from mlflow import MlflowClient

    from mlflow_agent_plugin.development import evaluate as run_suites
    from mlflow_agent_plugin.development import load_results, load_suite
    from mlflow_agent_plugin.observability.reference import evidence_runs, resolve_version

    client = MlflowClient()
    name, version = resolve_version(model_uri)
    tags = client.get_model_version(name, version).tags
    rows: dict[str, Sequence[CaseResult]] = {}
    missing = []
    known = {
        (suite, digest): run_id
        for run_id in evidence_runs(tags)
        for suite, digest in _suites_of(client, run_id)
    }
    for path in suites:
        suite = load_suite(path).name
        run_id = known.get((suite, _short(candidate.suites[suite].digest)))
        if run_id is None:
            missing.append(path)
        else:
            rows[suite] = load_results(run_id, suite)
    if missing:
        keep_reference(name, version)
        result = run_suites(model_uri, suites=missing, submit=True, **options)
        _adopt(result.run_id)
        rows |= {name: suite.rows for name, suite in result.suites.items()}
    return rows


def keep_reference(name: str, version: str) -> None:
    """Note which run the version's drift reference is in, before it is evaluated again."""
    from mlflow import MlflowClient

    from mlflow_agent_plugin.observability.reference import REFERENCE_TAG, reference_run

    run_id = reference_run(name, version)
    if run_id is not None:
        MlflowClient().set_model_version_tag(name, version, REFERENCE_TAG, run_id)


def make_suites(params: Params) -> list[Path]:
    """Return the suite files to run.

    Raises:
        ConfigError: The suite builder is not one, or there is no suite at all.
        SuiteError: An intent of the data has no expectation.
    """
    folder = Path(params.build) / "suites"
    folder.mkdir(parents=True, exist_ok=True)
    # A JSONL suite is called as its file.
    model = params.register_.model_name
    suites = [Path(name) for name in params.evaluate.suites]
    new: list[Path] = []
    if params.evaluate.suite_builder:
        if not suites:
            rows = _rows(params.dataset / "test.csv")
            suites = _build(params, rows, folder / f"{model}-{WHOLE_SUITE}.jsonl")
        held = _rows(params.dataset / "holdout.csv")
        new = _build(params, held, folder / f"{model}-{NEW_TRAFFIC_SUITE}.jsonl")
    if not suites and not new:
        raise ConfigError("there is no suite to evaluate on", where="params.yaml: evaluate.suites")
    return [*suites, *new]


def metrics_of(result: EvaluationResult) -> dict[str, dict[str, Any]]:
    """Return every suite's metrics as JSON values."""
    return {
        name: {key: metric.to_dict() for key, metric in suite.metrics.items()}
        for name, suite in result.suites.items()
    }


def compare(candidate: Iterable[CaseResult], incumbent: Iterable[CaseResult]) -> dict[str, Any]:
    """Return the paired difference of task success on the cases both ran."""
    ours = {row.case_id: row.success for row in candidate}
    theirs = {row.case_id: row.success for row in incumbent}
    both = sorted(set(ours) & set(theirs))
    only_ours = sum(ours[case] and not theirs[case] for case in both)
    only_theirs = sum(theirs[case] and not ours[case] for case in both)
    difference = paired_difference(only_ours, only_theirs, len(both))
    return {
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
        "n": len(both),
        "p_value": difference.p_value,
    }


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


def _suites_of(client: Any, run_id: str) -> set[tuple[str, str]]:
    """Return name and short digest of the suites of an evaluation run."""
    inputs = client.get_run(run_id).inputs.dataset_inputs
    return {(entry.dataset.name, entry.dataset.digest) for entry in inputs}


def _short(digest: str) -> str:
    """Return a suite's digest as MLflow's dataset inputs keep it."""
    return digest.removeprefix("sha256:")[:32]


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
    from mlflow_agent_plugin.development import write_scenarios

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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scenarios(scenarios, path)
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
