"""Starts the retraining pipeline: one MLflow project run, which is `dvc repro`.

Rules:
- One trigger at a time per workspace, and per model among all machines that share the runtime
  store: it looks at the cool-down and starts the pipeline under one lease, so two triggers at once
  start one pipeline, and the second says so. The pipeline of a trigger that lost its lease stops.
- The start is on record in the audit before anything runs.
- The pipeline ends with a promotion request. A failure leaves no version and no request behind that
  were not whole, and the next run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ConfigError, PipelineError
from mlflow_agent_plugin.lifecycle.fencing import (
    LEASES_VARIABLE,
    check_held,
    leases_for_children,
)
from mlflow_agent_plugin.lifecycle.lease import model_lease, pipeline_lease
from mlflow_agent_plugin.lifecycle.places import absolute_uri
from mlflow_agent_plugin.lifecycle.triggers import (
    Signals,
    TriggerDecision,
    TriggerPolicy,
    decide,
)

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.store import Store

EXPERIMENT = "retraining"
RETRAIN_TAG = "agent.retrain"
"""Run tag: the model a pipeline run retrains."""

RESULT_FILE = "result.json"
TRIGGER_LOCK = "trigger"


@dataclass(frozen=True)
class RetrainResult:
    """What a pipeline run made.

    Attributes:
        run_id: The MLflow run of the pipeline.
        version: The candidate's version.
        to: The stage or alias it waits for.
        evaluation: Metrics by suite, and the comparison with the incumbent (see
            ``pipelines/evaluate.py``).
        details: All of the workspace's ``result.json``.
    """

    run_id: str
    model_name: str
    version: int
    to: str
    reason: str
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def summary(self) -> str:
        """Return the result as one line for a log."""
        measured = self.details.get("request", {}).get("comment", "")
        return f"{self.model_name} version {self.version} waits for {self.to}: {measured}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "run_id": self.run_id,
            "model_name": self.model_name,
            "version": self.version,
            "to": self.to,
            "reason": self.reason,
            **self.details,
        }


def retrain(
    reason: str | TriggerDecision,
    *,
    project: str | Path = ".",
    model_name: str = "support",
    to: str = "Production",
    workspace: str | Path | None = None,
    labels: str | Path | pd.DataFrame | None = None,
    suites: Sequence[str | Path] = (),
    exclude_intents: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    experiment: str = EXPERIMENT,
    store: Store | None = None,
    actor: Actor | None = None,
) -> RetrainResult:
    """Run the pipeline and wait for it.

    Args:
        reason: Why: a sentence, or the decision of a trigger.
        project: The checkout with MLproject, dvc.yaml, agents/ and pipelines/.
        model_name: Registered model the candidate becomes a version of.
        to: Stage, or alias written ``@champion``, the request asks for.
        workspace: Folder the pipeline works in; default: ``build/retrain`` of the project.
        labels: What to learn from, a file or a frame: all that people said (`collect_remarks`),
            which is checked and versioned as a whole, or labelled requests alone
            (`collect_labels`, or anything with text and label).
        suites: Suites to evaluate on; default: one from the base data's test split.
        exclude_intents: Intents of the base data to leave out.
        parameters: More parameters of the MLproject entry point ``retrain``.
        experiment: MLflow experiment of the pipeline's run.
        store: Where the audit is; default: the configured store.
        actor: Who asks; default: the local user.

    Raises:
        PipelineError: Another pipeline runs in the workspace, or a stage failed.
        ConfigError: `project` is no checkout.
    """
    job = _Job(
        project=project,
        model_name=model_name,
        to=to,
        workspace=workspace,
        labels=labels,
        suites=suites,
        exclude_intents=exclude_intents,
        parameters=parameters,
        experiment=experiment,
        store=store,
        actor=actor,
    )
    text = reason if isinstance(reason, str) else "; ".join(reason.reasons())
    with _triggering(job, text) as opened:
        return _start(job, text, opened)


def run_trigger(
    policy: TriggerPolicy,
    signals: Signals,
    *,
    dry_run: bool = False,
    **options: Any,
) -> tuple[TriggerDecision, RetrainResult | None]:
    """Decide, and retrain if the policy fires; the last start is looked up under the lease.

    Args:
        policy: The rules.
        signals: What is known; `last_started_at` is filled in here.
        dry_run: Decide only.
        **options: Arguments of `retrain`.

    Raises:
        PipelineError: As `retrain`.
        TypeError: `retrain` has no such argument.
    """
    job = _Job(**options)
    with _triggering(job, "trigger") as store:
        last = last_started(job.model_name, experiment=job.experiment)
        known = [at for at in (last, signals.last_started_at) if at is not None]
        decision = decide(policy, replace(signals, last_started_at=max(known, default=None)))
        if dry_run or not decision.fire:
            return decision, None
        return decision, _start(job, "; ".join(decision.reasons()), store)


def last_started(model_name: str, *, experiment: str = EXPERIMENT) -> datetime | None:
    """Return when the pipeline was last started for a model, None if it never was."""
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    quoted = model_name.replace("'", "''")
    runs = client.search_runs(
        [found.experiment_id],
        f"tags.`{RETRAIN_TAG}` = '{quoted}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not runs:
        return None
    return datetime.fromtimestamp(runs[0].info.start_time / 1000, tz=timezone.utc)


@dataclass(frozen=True)
class _Job:
    """The arguments of `retrain`, checked."""

    project: str | Path = "."
    model_name: str = "support"
    to: str = "Production"
    workspace: str | Path | None = None
    labels: Any = None
    suites: Sequence[str | Path] = ()
    exclude_intents: Sequence[str] = ()
    parameters: Mapping[str, Any] | None = None
    experiment: str = EXPERIMENT
    store: Store | None = None
    actor: Actor | None = None

    def __post_init__(self) -> None:
        missing = [
            n for n in ("MLproject", "dvc.yaml", "pipelines") if not (self.root / n).exists()
        ]
        if missing:
            raise ConfigError(
                f"there is no {missing[0]}",
                where=str(self.root),
                hint="Give the folder of a checkout of mlflow-agent-plugin as project.",
            )

    @property
    def root(self) -> Path:
        """The checkout."""
        return Path(self.project).resolve()

    @property
    def folder(self) -> Path:
        """The workspace."""
        if self.workspace is None:
            return self.root / "build" / "retrain"
        return Path(self.workspace).absolute()


@contextmanager
def _triggering(job: _Job, purpose: str) -> Iterator[Store]:
    """Hold both leases of a trigger, with the store open."""
    from mlflow_agent_plugin.store import Store as RuntimeStore

    with pipeline_lease(job.folder, purpose=purpose, name=TRIGGER_LOCK):
        opened = RuntimeStore.open() if job.store is None else nullcontext(job.store)
        with opened as store, model_lease(store, job.model_name, name=TRIGGER_LOCK):
            yield store


def _start(job: _Job, reason: str, store: Store) -> RetrainResult:
    import mlflow.projects
    from mlflow.exceptions import ExecutionException

    values = {
        "workspace": str(job.folder),
        "model_name": job.model_name,
        "to": job.to,
        "feedback": _labels_file(job.labels, job.folder),
        "suites": ",".join(str(Path(suite).absolute()) for suite in job.suites),
        "exclude_intents": ",".join(job.exclude_intents),
        "experiment": job.experiment,
        "reason": reason,
        **{name: str(value) for name, value in (job.parameters or {}).items()},
    }
    (job.folder / RESULT_FILE).unlink(missing_ok=True)
    check_held()
    _record(store, job.actor, model_name=job.model_name, reason=reason, to=job.to)
    try:
        with _environment(store):
            run = mlflow.projects.run(
                uri=str(job.root),
                entry_point="retrain",
                parameters=values,
                experiment_name=job.experiment,
                run_name=f"retrain {job.model_name}",
                env_manager="local",
                synchronous=True,
            )
    except ExecutionException as error:
        check_held()
        found = _result(job.folder)
        stage = found.get("stage")
        raise PipelineError(
            str(found.get("problem") or error), where=f"stage {stage}" if stage else None
        ) from error
    found = _result(job.folder)
    if not found.get("ok"):
        raise PipelineError("the pipeline left no result", where=str(job.folder))
    return RetrainResult(
        run_id=str(run.run_id),
        model_name=job.model_name,
        version=int(found["request"]["version"]),
        to=job.to,
        reason=reason,
        evaluation=found["evaluation"],
        details=found,
    )


def _labels_file(labels: Any, workspace: Path) -> str:
    if labels is None:
        return ""
    if isinstance(labels, (str, Path)):
        return str(Path(labels).absolute())
    from mlflow_agent_plugin.lifecycle.labels import write_labels

    return str(write_labels(labels, workspace / "collected_labels.csv"))


def _record(store: Store, actor: Actor | None, **data: Any) -> None:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import AuditKind, AuditLog, local_actor

    who = actor or local_actor(Settings.from_env())
    AuditLog(store).append(AuditKind.RETRAIN_STARTED, actor=who, **data)


@contextmanager
def _environment(store: Store) -> Iterator[None]:
    """Give child processes this process's servers and store, absolute, and this Python."""
    import mlflow

    addresses = {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_REGISTRY_URI": mlflow.get_registry_uri(),
    }
    wanted = {name: absolute_uri(uri) for name, uri in addresses.items() if uri}
    wanted["MLFLOW_AGENTS_STORE_URI"] = absolute_uri(
        store.url.render_as_string(hide_password=False)
    )
    here = str(Path(sys.executable).parent)
    wanted["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    wanted["DVC_NO_ANALYTICS"] = "1"
    # They stop when one of them is lost: the work is theirs, not this process's.
    wanted[LEASES_VARIABLE] = leases_for_children()
    before = {name: os.environ.get(name) for name in wanted}
    tracking = addresses["MLFLOW_TRACKING_URI"]
    relative = bool(tracking) and wanted["MLFLOW_TRACKING_URI"] != tracking
    if relative:
        # MLflow hands its own value to the project, which works in another folder.
        mlflow.set_tracking_uri(wanted["MLFLOW_TRACKING_URI"])
    os.environ.update(wanted)
    try:
        yield
    finally:
        if relative:
            mlflow.set_tracking_uri(tracking)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _result(workspace: Path) -> dict[str, Any]:
    try:
        found = json.loads((workspace / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
