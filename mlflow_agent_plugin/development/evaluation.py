"""`evaluate`: an agent, suites, and an MLflow run that holds everything a gate needs.

Rules:
- Nothing is written to MLflow before agent and suites are known to be in order.
- The run holds, per suite, ``evaluation/<suite>/``: ``results.jsonl`` (the same bytes every
  time), ``timings.jsonl``, ``suite.jsonl``, ``cases.json`` (the table MLflow shows),
  ``evidence.dsse.json`` (signed), ``report.html`` and plots; metrics with 95% intervals; the suite
  as logged dataset; and ``monitoring/reference.parquet`` for drift.
- What the gate believes is the signed evidence and the results table, never the run's metrics.
- A run that fails is marked so; the cases it had played are kept for the next try.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.development.extra_scores import apply_scorers
from mlflow_agent_plugin.development.recording import (
    FOLDER,
    RESULTS_FILE,
    log_facts,
    log_reference,
    log_scores,
    log_suite,
    open_run,
    registered_version,
    submit_evidence,
    write_artifacts,
)
from mlflow_agent_plugin.development.results import EvaluationResult, SuiteResult
from mlflow_agent_plugin.development.runner import Engine, Progress, SuiteRun, run_suite
from mlflow_agent_plugin.development.suite import Suite, check_suite, load_suite
from mlflow_agent_plugin.errors import EvidenceError, SuiteError
from mlflow_agent_plugin.package import MANIFEST_FILE
from mlflow_agent_plugin.trust import KeyStore
from mlflow_agent_plugin.trust.evidence import CaseResult, read_results

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

    from mlflow_agent_plugin.package import Bundle


def evaluate(
    model_uri: str | Path,
    suites: Sequence[str | Path | Suite],
    *,
    workers: int = 1,
    engine: Engine = "processes",
    seed: int = 0,
    limit: int | None = None,
    repeats: int = 1,
    progress: bool | Progress = True,
    experiment: str | None = None,
    submit: bool = True,
    baseline: EvaluationResult | str | None = None,
    journal_dir: Path | None = None,
    scorers: Sequence[Scorer] = (),
) -> EvaluationResult:
    """Run suites against an agent and log what came of it, with signed evidence.

    Args:
        model_uri: Any MLflow model URI (``models:/support/3``, ``models:/support@champion``, …), a
            saved model's folder, or a bundle's folder.
        suites: Suite files, folders with ``suite.yaml``, or loaded suites.
        workers: Processes; 0 plays in this process, for a debugger.
        engine: "processes" on this machine, or "spark" on a cluster; the results are the same.
        seed: Seed of faults, samples and stochastic models.
        limit: Play only so many cases of each suite, drawn by `seed`; the evidence says so by its
            suite digest and number of cases.
        repeats: Play each suite so many times, with the seeds after `seed`, to see how much the
            results depend on the run (stochastic models); the evidence rests on the first.
        progress: Show progress bars, or call this with (suite, done, total).
        experiment: Name of the MLflow experiment; default: the current one.
        submit: For a registered version: hand the evidence to the registry.
        baseline: Earlier result (or its run id) to compare with, case by case.
        journal_dir: Folder for resuming killed runs; default: beside the keys.
        scorers: MLflow scorers, judges for example, over what was said; what they say is logged
            (``scores.jsonl``, metrics), and is not part of the evidence.

    Raises:
        SuiteError: A suite is malformed or does not fit the agent.
        IntegrityError: The agent is not what was logged.
        EvidenceError: `baseline` has no results of a suite.
        PipelineError: The same evaluation is running already.
    """
    from mlflow import MlflowClient

    if repeats < 1:
        raise SuiteError(f"repeats must be at least 1, not {repeats}", where="repeats")
    client = MlflowClient()
    registered = registered_version(client, str(model_uri))
    with fetched(registered.pinned(str(model_uri))) as bundle:
        loaded = load_suites(suites, bundle, limit, seed)
        earlier = {suite.name: _baseline_rows(baseline, suite.name) for suite in loaded}
        key = KeyStore().signing_key()
        with ExitStack() as journals, open_run(client, experiment, bundle, str(model_uri)) as run:
            log_facts(client, run.run_id, bundle, loaded, seed, workers, registered)
            results: dict[str, SuiteResult] = {}
            played: list[SuiteRun] = []
            for suite in loaded:
                runs = [
                    journals.enter_context(
                        run_suite(
                            bundle,
                            suite,
                            workers=workers,
                            engine=engine,
                            seed=seed + repeat,
                            progress=progress,
                            journal_dir=journal_dir,
                        )
                    )
                    for repeat in range(repeats)
                ]
                played.append(runs[0])
                with tempfile.TemporaryDirectory() as scratch:
                    folder = Path(scratch)
                    results[suite.name] = write_artifacts(
                        folder,
                        runs[0],
                        bundle,
                        run.run_id,
                        earlier[suite.name],
                        key,
                        runs[1:],
                        console=registered.console,
                    )
                    client.log_artifacts(run.run_id, str(folder), f"{FOLDER}/{suite.name}")
                log_suite(client, run, runs[0], results[suite.name], registered)
                if scorers:
                    log_scores(client, run, runs[0], apply_scorers(scorers, runs[0]))
            log_reference(client, run.run_id, played, registered)
        submitted = submit_evidence(client, registered, run.run_id) if submit else None
    return EvaluationResult(
        run_id=run.run_id,
        experiment_id=run.experiment_id,
        agent=bundle.manifest.name,
        digest=bundle.digest.value,
        model_uri=str(model_uri),
        suites=results,
        submitted=submitted,
    )


def load_results(run_id: str, suite: str) -> list[CaseResult]:
    """Return the results table of an evaluation run, for `compare`.

    Raises:
        EvidenceError: The run has no results of this suite.
    """
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = download_artifacts(
                run_id=run_id, artifact_path=f"{FOLDER}/{suite}/{RESULTS_FILE}", dst_path=folder
            )
        except Exception as error:  # each artifact store has errors of its own
            raise EvidenceError(
                f"the run has no results of suite {suite!r}",
                where=f"run {run_id}",
                hint="Give the run of an evaluation of this suite.",
            ) from error
        return read_results(path)


@contextmanager
def fetched(model_uri: str) -> Iterator[Bundle]:
    """Give the agent of a model URI or folder; what was downloaded goes when the block ends."""
    from mlflow_agent_plugin.core import fetch_bundle, validate

    if (Path(model_uri) / MANIFEST_FILE).is_file():
        yield validate(model_uri)
        return
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        yield fetch_bundle(model_uri, destination=folder)


def load_suites(
    suites: Sequence[str | Path | Suite], bundle: Bundle, limit: int | None, seed: int
) -> list[Suite]:
    """Read suites, draw a sample if asked, and check them against the agent.

    Raises:
        SuiteError: One is malformed, does not fit the agent, or two have one name.
    """
    if isinstance(suites, (str, Path)) or not suites:
        raise SuiteError("give a list with at least one suite", where="suites")
    loaded = [suite if isinstance(suite, Suite) else load_suite(suite) for suite in suites]
    names = [suite.name for suite in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SuiteError(f"two suites are called {twice[0]!r}", hint="Rename one of them.")
    if limit is not None:
        loaded = [suite.sample(limit, seed=seed) for suite in loaded]
    for suite in loaded:
        check_suite(suite, bundle)
    return loaded


def _baseline_rows(
    baseline: EvaluationResult | str | None, suite: str
) -> Sequence[CaseResult] | None:
    if baseline is None:
        return None
    if isinstance(baseline, EvaluationResult):
        known = baseline.suites.get(suite)
        return load_results(baseline.run_id, suite) if known is None else known.rows
    return load_results(baseline, suite)
