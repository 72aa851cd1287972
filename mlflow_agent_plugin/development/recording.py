"""Writes an evaluation into MLflow: run, artifacts, metrics, reference, evidence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.flavor import CONSOLE_TAG, is_console_path
from mlflow_agent_plugin.development.case import CaseRun
from mlflow_agent_plugin.development.comparison import compare
from mlflow_agent_plugin.development.extra_scores import ExtraScore, mean_scores
from mlflow_agent_plugin.development.results import SuiteResult, flat_metrics, percentiles
from mlflow_agent_plugin.development.runner import SuiteRun
from mlflow_agent_plugin.development.stability import Stability, measure_stability
from mlflow_agent_plugin.development.suite import Suite, write_suite
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.observability.reference import EVIDENCE_TAG
from mlflow_agent_plugin.observability.schema import REFERENCE_ARTIFACT, write_reference
from mlflow_agent_plugin.trust.evidence import (
    CaseResult,
    compute_metrics,
    evidence_statement,
    sign_evidence,
    write_results,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_agent_plugin.package import Bundle
    from mlflow_agent_plugin.trust import SigningKey

FOLDER = "evaluation"
RESULTS_FILE = "results.jsonl"
EVIDENCE_FILE = "evidence.dsse.json"


@dataclass(frozen=True)
class OpenRun:
    """The MLflow run of an evaluation."""

    run_id: str
    experiment_id: str


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered version, and the logged model behind it.

    Attributes:
        console: Path of its page in the server's review console, None if it has none.
    """

    name: str | None
    version: str | None
    model_id: str | None
    console: str | None = None

    def pinned(self, model_uri: str) -> str:
        """Return the URI of exactly this version: an alias may move while it is evaluated."""
        return model_uri if self.name is None else f"models:/{self.name}/{self.version}"


def registered_version(client: MlflowClient, model_uri: str) -> RegisteredVersion:
    """Return what the registry knows about a model URI."""
    if not model_uri.startswith("models:/"):
        return RegisteredVersion(None, None, None)
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    found = get_model_name_and_version(client, model_uri)
    if len(found) == 1:
        return RegisteredVersion(None, None, str(found[0]))
    name, version = str(found[0]), str(found[1])
    entry = client.get_model_version(name, version)
    model_id = entry.model_id
    if not model_id and str(entry.source).startswith("models:/m-"):
        model_id = str(entry.source).removeprefix("models:/")  # SQL stores keep it only there
    console = entry.tags.get(CONSOLE_TAG)
    return RegisteredVersion(
        name, version, model_id or None, console if is_console_path(console) else None
    )


@contextmanager
def open_run(
    client: MlflowClient, experiment: str | None, bundle: Bundle, model_uri: str
) -> Iterator[OpenRun]:
    """Open the MLflow run of an evaluation; it ends finished, failed or killed."""
    tags = {"agent.kind": "evaluation", "agent.name": bundle.manifest.name}
    tags["agent.digest"] = bundle.digest.value
    what = bundle.manifest.name
    if model_uri.startswith("models:/"):
        what = model_uri.removeprefix("models:/").strip("/")
    with open_named_run(client, experiment, tags, f"evaluate {what}") as run:
        yield run


@contextmanager
def open_named_run(
    client: MlflowClient, experiment: str | None, tags: Mapping[str, str], name: str
) -> Iterator[OpenRun]:
    """Open an MLflow run, below the active one; it ends finished, failed or killed."""
    import mlflow
    from mlflow.tracking.fluent import _get_experiment_id
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    parent = mlflow.active_run()
    if experiment is not None:
        found = client.get_experiment_by_name(experiment)
        experiment_id = (
            client.create_experiment(experiment) if found is None else found.experiment_id
        )
    else:
        experiment_id = _get_experiment_id() if parent is None else parent.info.experiment_id
    own = dict(tags)
    if parent is not None and parent.info.experiment_id == experiment_id:
        own[MLFLOW_PARENT_RUN_ID] = parent.info.run_id
    run = client.create_run(experiment_id, tags=own, run_name=name)
    try:
        yield OpenRun(run.info.run_id, experiment_id)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        client.set_terminated(run.info.run_id, status)
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def log_facts(
    client: MlflowClient,
    run_id: str,
    bundle: Bundle,
    suites: Sequence[Suite],
    seed: int,
    workers: int,
    registered: RegisteredVersion,
) -> None:
    """Log what is evaluated: parameters, suites as datasets, the logged model."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Param, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    params = {
        "agent": bundle.manifest.name,
        "agent_digest": bundle.digest.value,
        "seed": str(seed),
        "workers": str(workers),
        "suites": ",".join(suite.name for suite in suites)[:500],
    }
    tags = {}
    if registered.console is not None:
        link = f"[Review this version in the console]({registered.console})"
        tags = {CONSOLE_TAG: registered.console, MLFLOW_RUN_NOTE: link}
    client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    datasets = [
        DatasetInput(
            dataset=Dataset(
                name=suite.name,
                digest=suite.digest.removeprefix("sha256:")[:32],
                source_type="local",
                source=json.dumps({"uri": str(suite.source or "")}),
                profile=json.dumps({"num_rows": len(suite)}),
            ),
            tags=[InputTag("mlflow.data.context", "evaluation")],
        )
        for suite in suites
    ]
    models = [LoggedModelInput(registered.model_id)] if registered.model_id else None
    client.log_inputs(run_id, datasets=datasets, models=models)


def write_artifacts(
    folder: Path,
    run: SuiteRun,
    bundle: Bundle,
    run_id: str,
    earlier: Sequence[CaseResult] | None,
    key: SigningKey,
    repeated: Sequence[SuiteRun] = (),
    *,
    console: str | None = None,
) -> SuiteResult:
    """Write the suite's artifacts into `folder`; the signed evidence comes last."""
    from mlflow_agent_plugin.development.report import render_report, write_plots

    rows = tuple(case.result for case in run.runs)
    turn_seconds = [seconds for case in run.runs for seconds in case.turn_seconds]
    result = SuiteResult(
        name=run.suite.name,
        digest=run.suite.digest,
        results_digest=write_results(rows, folder / RESULTS_FILE),
        rows=rows,
        metrics=compute_metrics(rows),
        latency=percentiles(turn_seconds),
        seconds=run.seconds,
        resumed=run.resumed,
        audit_events=run.audit_events,
        artifact_path=f"{FOLDER}/{run.suite.name}",
        comparison=None if earlier is None else compare(rows, earlier),
        stability=_stability(folder, rows, repeated),
    )
    write_suite(run.suite, folder / "suite.jsonl")
    (folder / "timings.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "case_id": case.result.case_id,
                    "seconds": round(case.seconds, 6),
                    "turn_seconds": [round(seconds, 6) for seconds in case.turn_seconds],
                }
            )
            + "\n"
            for case in run.runs
        )
    )
    if result.comparison is not None:
        (folder / "comparison.json").write_text(json.dumps(result.comparison.to_dict(), indent=1))
    plots = write_plots(result, turn_seconds)
    (folder / "plots").mkdir()
    for name, data in plots.items():
        (folder / "plots" / f"{name}.png").write_bytes(data)
    report = render_report(
        result,
        agent=bundle.manifest.name,
        agent_digest=bundle.digest.value,
        run_id=run_id,
        plots=plots,
        console=console,
        answers={case.result.case_id: case.answer for case in run.runs},
    )
    (folder / "report.html").write_text(report, encoding="utf-8")
    statement = evidence_statement(
        agent=bundle.manifest.name,
        agent_digest=bundle.digest.value,
        suite=result.name,
        suite_digest=result.digest,
        results_digest=result.results_digest,
        rows=rows,
        run_id=run_id,
        evaluated_at=utc_now(),
    )
    (folder / EVIDENCE_FILE).write_text(json.dumps(sign_evidence(statement, key), indent=1))
    return result


def _stability(
    folder: Path, rows: Sequence[CaseResult], repeated: Sequence[SuiteRun]
) -> Stability | None:
    """Write the results of repeated runs, and return what they say together."""
    if not repeated:
        return None
    tables = [list(rows)]
    for number, run in enumerate(repeated, start=1):
        tables.append([case.result for case in run.runs])
        write_results(tables[-1], folder / f"results-repeat-{number}.jsonl")
    stability = measure_stability(tables)
    (folder / "stability.json").write_text(json.dumps(stability.to_dict(), indent=1))
    return stability


def log_suite(
    client: MlflowClient,
    run: OpenRun,
    suite_run: SuiteRun,
    result: SuiteResult,
    found: RegisteredVersion,
) -> None:
    """Log a suite's metrics with intervals, and its table for the MLflow UI."""
    import pandas as pd
    from mlflow.entities import Metric

    table = pd.DataFrame([_table_row(case) for case in suite_run.runs])
    client.log_table(run.run_id, table, f"{result.artifact_path}/cases.json")
    now = int(utc_now().timestamp() * 1000)
    metrics = [
        Metric(
            key=name,
            value=value,
            timestamp=now,
            step=0,
            model_id=found.model_id,
            dataset_name=result.name,
            dataset_digest=result.digest.removeprefix("sha256:")[:32],
            run_id=run.run_id,
        )
        for name, value in flat_metrics(result).items()
    ]
    client.log_batch(run.run_id, metrics=metrics)


def log_scores(
    client: MlflowClient, run: OpenRun, suite_run: SuiteRun, scores: Sequence[ExtraScore]
) -> None:
    """Log what extra scorers said about a suite's cases."""
    name = suite_run.suite.name
    lines = "".join(json.dumps(score.to_dict(), sort_keys=True) + "\n" for score in scores)
    client.log_text(run.run_id, lines, f"{FOLDER}/{name}/scores.jsonl")
    for metric, value in mean_scores(scores).items():
        client.log_metric(run.run_id, f"{name}/{metric}", value)


def _table_row(case: CaseRun) -> Mapping[str, Any]:
    row = case.result
    return {
        "case": row.case_id,
        "user": row.text,
        "answer": case.answer,
        "success": row.success,
        "outcome": row.outcome,
        "expected_outcome": row.expected_outcome or "",
        "intent": row.intent or "",
        "expected_intent": row.expected_intent or "",
        "confidence": row.confidence,
        "calls": "; ".join(f"{call['tool']} ({call['status']})" for call in row.calls),
        "failures": "; ".join(row.failures),
        "unsafe_calls": row.unsafe_calls,
        "seconds": round(case.seconds, 4),
        "tags": ", ".join(row.tags),
    }


def log_reference(
    client: MlflowClient, run_id: str, played: Sequence[SuiteRun], registered: RegisteredVersion
) -> None:
    """Log the monitoring rows that later traffic is compared with."""
    rows = [
        {**row, "version": registered.version}
        for run in played
        if run.suite.reference
        for case in run.runs
        for row in case.monitoring
    ]
    if not rows:
        return
    artifact = Path(REFERENCE_ARTIFACT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / artifact.name
        write_reference(rows, path)
        client.log_artifact(run_id, str(path), str(artifact.parent))


def submit_evidence(client: MlflowClient, registered: RegisteredVersion, run_id: str) -> str | None:
    """Hand the evidence of a registered version to the registry."""
    if registered.name is None or registered.version is None:
        return None
    client.set_model_version_tag(registered.name, registered.version, EVIDENCE_TAG, run_id)
    return f"{registered.name}/{registered.version}"
