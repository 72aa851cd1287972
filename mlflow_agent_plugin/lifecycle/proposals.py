"""What an agent may do about models: look at signals, and propose. Nothing here approves.

Rules:
- `propose_retraining` starts the pipeline in a process of its own, which ends with a promotion
  request; `prepare_evaluation` starts an evaluation, whose evidence is signed like any other;
  `propose_rollout` opens a promotion request. What any of them leads to waits at the gate for a
  reviewer: there is no function here, and no tool made of one, that could answer there.
- Only the models and suites named when it was opened; everything else does not exist.
- Reasons are masked and bounded, and say that an agent wrote them and for whom.

`agents/steward` makes governed tools of it, with policies by which a reviewer also has to agree to
a retraining before it starts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import ConfigError, DataError, PipelineError

MAX_REASON_CHARS = 500

Start = Callable[[str, Mapping[str, Any], Path], int]
"""Starts ``python -m mlflow_agent_plugin.lifecycle <job>`` with arguments; returns its process."""


class Proposals:
    """The models an agent may propose something for.

    Args:
        models: Registered models, each with its slot ("Production", "@champion").
        project: The checkout with the pipeline.
        suites: Suite files by the names the agent knows them by.
        logs: Folder for what the started processes print.
        start: Starts a process (see `start_process`).
    """

    def __init__(
        self,
        *,
        models: Mapping[str, str],
        project: str | Path = ".",
        suites: Mapping[str, str | Path] | None = None,
        logs: str | Path = "build/proposals",
        start: Start | None = None,
    ) -> None:
        if not models:
            raise ConfigError("names no model", where="Proposals(models)")
        self._models = dict(models)
        self._project = Path(project).resolve()
        self._suites = {name: Path(path).resolve() for name, path in (suites or {}).items()}
        self._logs = Path(logs).resolve()
        self._start = start or start_process

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self._models)

    def signals(self, model: str) -> dict[str, Any]:
        """Return what is known about the version of `model` in service.

        Raises:
            DataError: There is no such model here, or nothing serves.
            MlflowException: The server cannot be read.
        """
        from mlflow_agent_plugin.lifecycle.retraining import last_started
        from mlflow_agent_plugin.lifecycle.watching import version_in
        from mlflow_agent_plugin.observability.drift import last_verdict
        from mlflow_agent_plugin.observability.environment.tracking import last_environment

        slot = self._slot(model)
        version = version_in(model, slot)
        drift, outside = last_verdict(model, version), last_environment(model, version)
        started = last_started(model)
        return {
            "model": model,
            "slot": slot,
            "version": int(version),
            "drift": "never checked" if drift is None else drift.summary(),
            "environment": "never checked" if outside is None else outside.summary(),
            "last_retraining": "never" if started is None else started.isoformat(),
        }

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Return the versions of `model`, the newest first, at most twenty.

        Raises:
            DataError: There is no such model here.
            MlflowException: The server cannot be read.
        """
        from mlflow import MlflowClient

        self._slot(model)
        found = MlflowClient().search_model_versions(f"name = '{model}'", max_results=1000)
        newest = sorted(found, key=lambda each: int(each.version), reverse=True)[:20]
        return [
            {
                "version": int(each.version),
                "stage": str(each.current_stage or "None"),
                "aliases": sorted(map(str, each.aliases)),
                "digest": str(each.tags.get("agent.digest", "")),
            }
            for each in newest
        ]

    def propose_retraining(self, model: str, reason: str, *, by: str) -> dict[str, Any]:
        """Start the pipeline, whose candidate waits for a reviewer.

        Raises:
            DataError: There is no such model here.
            PipelineError: A pipeline for it runs already.
        """
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.store.leases import LeaseTable

        slot = self._slot(model)
        with Store.open() as store:
            holder = LeaseTable(store).holder(f"trigger:{model}")
        if holder is not None:
            raise PipelineError(f"a retraining of {model} is running already: {holder}")
        said = self._said(reason, by)
        process = self._start(
            "retrain",
            {"model_name": model, "to": slot, "reason": said, "project": str(self._project)},
            self._logs,
        )
        return {"model": model, "started": True, "process": process, "waits_for": slot}

    def prepare_evaluation(
        self, model: str, version: int, suite: str, *, by: str
    ) -> dict[str, Any]:
        """Start an evaluation of a version, and say what its gate still asks for.

        Raises:
            DataError: There is no such model, version or suite here.
            MlflowException: The server cannot be read.
        """
        slot = self._slot(model)
        if suite not in self._suites:
            raise DataError(
                f"there is no suite {suite!r} here", hint=f"Known: {', '.join(self._suites)}."
            )
        self._check_version(model, version)
        missing = self._missing(model, version, slot)
        process = self._start(
            "evaluate",
            {
                "model_uri": f"models:/{model}/{version}",
                "suites": [str(self._suites[suite])],
                "reason": self._said("", by),
            },
            self._logs,
        )
        return {
            "model": model,
            "version": version,
            "suite": suite,
            "started": True,
            "process": process,
            "missing": missing,
        }

    def propose_rollout(self, model: str, version: int, reason: str, *, by: str) -> dict[str, Any]:
        """Open a promotion request; a reviewer answers it.

        Raises:
            DataError: There is no such model or version here.
            MlflowException: The slot points there already, or the server refuses.
        """
        from mlflow_agent_plugin.registry import request_promotion

        slot = self._slot(model)
        self._check_version(model, version)
        request_promotion(model, version, to=slot, comment=self._said(reason, by), by=by)
        return {
            "model": model,
            "version": version,
            "requested": True,
            "waits_for": slot,
            "missing": self._missing(model, version, slot),
        }

    def _slot(self, model: str) -> str:
        if model not in self._models:
            raise DataError(
                f"there is no model {model!r} here", hint=f"Known: {', '.join(self._models)}."
            )
        return self._models[model]

    @staticmethod
    def _check_version(model: str, version: int) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            MlflowClient().get_model_version(model, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise DataError(f"{model} has no version {version}") from error

    @staticmethod
    def _missing(model: str, version: int, slot: str) -> list[str]:
        """Return what the gate asks for and the version has not, one sentence each."""
        from mlflow_agent_plugin.registry import gate_report

        report = gate_report(model, version, to=slot).to_dict()
        return [
            f"{item['kind']}: {item.get('reason', item['status'])}"[:300]
            for item in report["results"]
            if item["status"] != "met"
        ]

    @staticmethod
    def _said(reason: str, by: str) -> str:
        text = " ".join(mask_text(reason).split())[:MAX_REASON_CHARS]
        return f"proposed by an agent for {by}{f': {text}' if text else ''}"


def start_process(job: str, arguments: Mapping[str, Any], logs: Path) -> int:
    """Start ``python -m mlflow_agent_plugin.lifecycle <job>`` and return its process id.

    It outlives the caller; what it prints goes to a file of its own in `logs`.

    Raises:
        PipelineError: It cannot be started.
    """
    command = [sys.executable, "-m", "mlflow_agent_plugin.lifecycle", job, json.dumps(arguments)]
    try:
        logs.mkdir(parents=True, exist_ok=True)
        number = len(list(logs.glob(f"{job}-*.log"))) + 1
        with (logs / f"{job}-{number}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise PipelineError(f"cannot be started: {error.strerror}", where=str(logs)) from error
    # Somebody has to take note of its end, or it stays in the table of processes.
    threading.Thread(target=process.wait, name="mlflow-agents-proposal", daemon=True).start()
    return process.pid


def run_job(job: str, arguments: Mapping[str, Any]) -> str:
    """Do what a started process is for, and return one line about it.

    Raises:
        AgentError: As `retrain` and `evaluate`.
        ConfigError: There is no such job.
    """
    if job == "retrain":
        from mlflow_agent_plugin.lifecycle.remarks import collect_remarks
        from mlflow_agent_plugin.lifecycle.retraining import retrain

        values = dict(arguments)
        return retrain(values.pop("reason"), labels=collect_remarks(), **values).summary()
    if job == "evaluate":
        from mlflow_agent_plugin.development import evaluate

        suites: Sequence[str] = arguments["suites"]
        result = evaluate(arguments["model_uri"], suites=list(suites), progress=False)
        return f"run {result.run_id}; evidence for {result.submitted or 'nobody'}"
    raise ConfigError(f"there is no job {job!r}", where="python -m mlflow_agent_plugin.lifecycle")
