"""Runs the pipeline in a workspace of its own: ``python -m pipelines.retrain --help``.

Rules:
- The workspace is a DVC repository without git, so that this works in a checkout and in an unpacked
  archive alike. It holds dvc.yaml, params.yaml (the project's, with this run's values), the
  feedback, DVC's cache, and what the stages make. A second run reuses what has not changed, and a
  run after a failure goes on where that one stopped.
- One pipeline at a time per workspace, and per model among all machines that share the runtime
  store; a second one ends at once and says who holds it. One that loses the model's lease, or was
  told to end (SIGTERM), ends its stages too.
- The stages run with this Python, this tracking and registry server (absolute addresses), and
  without sending usage statistics.
- How it ended stands in ``result.json`` of the workspace, whatever happens.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import yaml

from mlflow_agent_plugin.errors import AgentError, ConfigError, LeaseLostError, PipelineError
from mlflow_agent_plugin.lifecycle.fencing import LEASES_VARIABLE, HeldLease, leases_for_children
from mlflow_agent_plugin.lifecycle.lease import model_lease, pipeline_lease
from mlflow_agent_plugin.lifecycle.places import absolute_uri
from mlflow_agent_plugin.store import Store
from pipelines.stage import PARAMS_FILE, Params, read_json, read_params, write_json
from pipelines.validate import FAILED_ROWS

PROJECT = Path(__file__).resolve().parents[1]
RESULT_FILE = "result.json"
FEEDBACK_FILE = "feedback"
DATA_DOCS = "validation"
"""Artifact folder of Great Expectations' report."""

_BUILD = "build"
_FAILED_STAGE = re.compile(r"failed to reproduce '([^']+)'")
_SHOWN_LINES = 30


def prepare_workspace(
    workspace: Path, *, project: Path = PROJECT, feedback: Path | None = None, **values: Any
) -> Params:
    """Write the workspace's files and return its parameters.

    Args:
        workspace: The folder; made if missing, kept if an earlier run made it.
        project: The checkout whose stages and agents are used.
        feedback: What people said: labels, or remarks; None: nothing.
        **values: Sections of ``params.yaml`` (``ingest``, ``evaluate`` …) with this run's values,
            and ``agent``.

    Raises:
        ConfigError: A value makes no sense, or a file is missing.
    """
    if not (project / "dvc.yaml").is_file():
        raise ConfigError("is no project: there is no dvc.yaml", where=str(project))
    base = read_params(project / PARAMS_FILE).model_dump(mode="json", by_alias=True)
    for section, found in values.items():
        if isinstance(found, Mapping):
            base[section] = {**base[section], **found}
        else:
            base[section] = found
    base["code"] = str(project / "pipelines")
    base["build"] = _BUILD
    base["agent"] = str(_existing(project, base["agent"], "agent"))
    if base["ingest"]["base"]:
        base["ingest"]["base"] = str(_existing(project, base["ingest"]["base"], "base"))
    base["evaluate"]["suites"] = [
        str(_existing(project, name, "suites")) for name in base["evaluate"]["suites"]
    ]
    workspace.mkdir(parents=True, exist_ok=True)
    source = feedback if feedback is not None else project / "pipelines" / "no_feedback.csv"
    if not source.is_file():
        raise ConfigError("there is no such file", where=str(source))
    kept = workspace / (FEEDBACK_FILE + source.suffix)
    if kept.resolve() != source.resolve():
        shutil.copyfile(source, kept)
    base["ingest"]["feedback"] = kept.name
    try:
        params = Params.model_validate(base)
    except ValueError as error:
        raise ConfigError(f"these parameters make no sense: {error}") from error
    text = yaml.safe_dump(params.model_dump(mode="json", by_alias=True), sort_keys=True)
    (workspace / PARAMS_FILE).write_text(text, encoding="utf-8")
    shutil.copyfile(project / "dvc.yaml", workspace / "dvc.yaml")
    _write_dvc_config(workspace, project)
    return params


def run_pipeline(
    workspace: Path, *, project: Path = PROJECT, reason: str = "", lease: HeldLease | None = None
) -> dict[str, Any]:
    """Run ``dvc repro`` in a prepared workspace and return how it ended.

    Args:
        workspace: The folder.
        project: The checkout.
        reason: Why, for the result.
        lease: Ends the stages when it is lost.

    Raises:
        LeaseLostError: The lease was lost; no stage runs any more.
        PipelineError: A stage failed; the message says which and why.
    """
    result: dict[str, Any] = {"ok": False, "reason": reason, "stage": None, "problem": None}
    write_json(workspace / RESULT_FILE, result)
    environment = child_environment(project)
    command = [sys.executable, "-m", "dvc", "repro"]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that DVC and the stage it runs can be ended together
    ) as process:
        assert process.stdout is not None
        fence = nullcontext() if lease is None else lease.when_lost(lambda: _end(process))
        try:
            with fence:
                for line in process.stdout:
                    click.echo(line, nl=False)
                    lines.append(line.rstrip("\n"))
                process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        stage, problem = _why(lines)
        try:
            if lease is not None:
                lease.check()
        except LeaseLostError as error:
            write_json(workspace / RESULT_FILE, result | {"stage": stage, "problem": str(error)})
            raise
        result |= {"stage": stage, "problem": problem}
        write_json(workspace / RESULT_FILE, result)
        where = f"stage {stage}" if stage else None
        raise PipelineError(problem, where=where)
    build = workspace / _BUILD
    result |= {
        "ok": True,
        "request": read_json(build / "request.json"),
        "evaluation": read_json(build / "evaluation.json"),
        "train": read_json(build / "train.json"),
        "ingest": read_json(build / "dataset" / "ingest.json"),
    }
    write_json(workspace / RESULT_FILE, result)
    return result


def _end(process: subprocess.Popen[str]) -> None:
    """End DVC and the stage it runs, at once: what has no lease must not write any more."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def child_environment(project: Path) -> dict[str, str]:
    """Return the environment of the stages."""
    environment = dict(os.environ)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        if environment.get(name):
            environment[name] = absolute_uri(environment[name])
    if environment.get("MLFLOW_AGENTS_STORE_URI"):
        environment["MLFLOW_AGENTS_STORE_URI"] = absolute_uri(
            environment["MLFLOW_AGENTS_STORE_URI"]
        )
    # A run id would make every stage write into the pipeline's own run, and close it.
    parent = environment.pop("MLFLOW_RUN_ID", None)
    if parent:
        environment["MLFLOW_AGENTS_PIPELINE_RUN"] = parent
    paths = [str(project), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    here = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([here, environment.get("PATH", "")])
    environment["DVC_NO_ANALYTICS"] = "1"
    environment.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    environment.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    environment["DO_NOT_TRACK"] = "1"
    environment[LEASES_VARIABLE] = leases_for_children()
    return environment


def _existing(project: Path, name: str, what: str) -> Path:
    for folder in (Path.cwd(), project):
        path = folder / name
        if path.exists():
            return path.resolve()
    raise ConfigError("there is no such file or folder", where=f"{what}: {name}")


def _write_dvc_config(workspace: Path, project: Path) -> None:
    config = configparser.ConfigParser(interpolation=None)
    for name in ("config", "config.local"):
        # Remotes and caches configured for the project hold for the workspace too.
        config.read(project / ".dvc" / name, encoding="utf-8")
    if not config.has_section("core"):
        config.add_section("core")
    config["core"].update(no_scm="true", analytics="false", check_update="false")
    folder = workspace / ".dvc"
    folder.mkdir(exist_ok=True)
    with (folder / "config").open("w", encoding="utf-8") as file:
        config.write(file)


def _why(lines: list[str]) -> tuple[str | None, str]:
    text = "\n".join(lines)
    found = _FAILED_STAGE.search(text)
    stage = found.group(1) if found else None
    start = next((n for n, line in enumerate(lines) if line.startswith("error: ")), None)
    if start is not None:
        end = next(
            (n for n in range(start + 1, len(lines)) if lines[n].startswith("ERROR:")), len(lines)
        )
        return stage, "\n".join(lines[start:end][:_SHOWN_LINES]).removeprefix("error: ").strip()
    if "Unable to acquire lock" in text or "is busy" in text:
        return stage, "another DVC process works in this workspace"
    last = [line for line in lines if line.strip()][-3:]
    return stage, "dvc repro failed: " + " | ".join(last)


def _log_validation(build: Path, run_id: str) -> None:
    """Keep Great Expectations' report in the pipeline's run, with a link to it."""
    from mlflow import MlflowClient

    docs = build / "data_docs"
    if not (docs / "index.html").is_file():
        return
    client = MlflowClient()
    client.log_artifacts(run_id, str(docs), DATA_DOCS)
    run = client.get_run(run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts/{DATA_DOCS}/index.html"
    good = (build / "validation.json").is_file()
    client.set_tag(run_id, "agent.validation", "passed" if good else "failed")
    said = run.data.tags.get("mlflow.note.content", "")
    link = f"Data validation {'passed' if good else '**failed**'}: [Data Docs]({page})"
    for name in () if good else sorted(FAILED_ROWS.values()):
        link += f", [{name}]({page.replace('index.html', name)})"
    client.set_tag(run_id, "mlflow.note.content", f"{said}\n\n{link}".strip())


def _log(result: Mapping[str, Any], model_name: str, run_id: str) -> None:
    """Write how the pipeline ended to the run MLflow started for it."""
    from mlflow import MlflowClient

    client = MlflowClient()
    evaluation = result.get("evaluation") or {}
    for suite, metrics in evaluation.get("suites", {}).items():
        for name, metric in metrics.items():
            for suffix in ("", "_low", "_high"):
                value = metric.get(suffix.lstrip("_") or "value")
                if isinstance(value, (int, float)):
                    client.log_metric(run_id, f"{suite}/{name}{suffix}", float(value))
    accuracy = (result.get("train") or {}).get("accuracy")
    if accuracy is not None:
        client.log_metric(run_id, "planner/accuracy", float(accuracy))
    made = result.get("request") or {}
    if made:
        client.set_tag(run_id, "agent.version", str(made["version"]))
    client.set_tag(run_id, "agent.model", model_name)
    client.log_dict(run_id, dict(result), RESULT_FILE)


def _log_data_version(workspace: Path, run_id: str) -> None:
    """Keep in the run which data it was: DVC's lock file, and the hashes in it."""
    from mlflow import MlflowClient

    lock = workspace / "dvc.lock"
    if not lock.is_file():
        return
    client = MlflowClient()
    client.log_artifact(run_id, str(lock))
    outs = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].get("ingest", {})
    tags = {"dataset": "agent.dataset.md5", "remarks.csv": "agent.remarks.md5"}
    for out in outs.get("outs", []):
        tag = tags.get(Path(out["path"]).name)
        if tag is not None:
            client.set_tag(run_id, tag, out["md5"])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workspace", default="build/retrain", show_default=True, help="Folder to work in.")
@click.option("--model-name", default="support", show_default=True, help="Registered model.")
@click.option("--to", default="Production", show_default=True, help="Stage or @alias to ask for.")
@click.option("--agent", default="agents/support", show_default=True, help="Folder of the agent.")
@click.option("--feedback", default="", help="CSV or parquet file: labels, or remarks.")
@click.option("--base", default="", help="Folder with train.csv and test.csv; default: BANKING77.")
@click.option("--exclude-intents", default="", help="Intents of the base data to leave out.")
@click.option("--suites", default="", help="Suites to evaluate on, separated by commas.")
@click.option("--suite-builder", default="evaluations.support.build_suite", show_default=True)
@click.option("--holdout-share", type=float, default=0.2, show_default=True)
@click.option("--limit", type=int, default=0, help="Most scenarios per suite; 0: all.")
@click.option("--workers", type=int, default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--experiment", default="retraining", show_default=True)
@click.option("--reason", default="", help="Why; stands in the promotion request.")
def main(
    workspace: str,
    model_name: str,
    to: str,
    agent: str,
    feedback: str,
    base: str,
    exclude_intents: str,
    suites: str,
    suite_builder: str,
    holdout_share: float,
    limit: int,
    workers: int,
    seed: int,
    experiment: str,
    reason: str,
) -> None:
    """Retrain, evaluate, register and ask for promotion, by `dvc repro`."""
    # By default Python ends without leaving its blocks: leases kept, stages running on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(workspace).absolute()
    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        with (
            pipeline_lease(folder, purpose=reason or "retrain"),
            Store.open() as store,
            model_lease(store, model_name) as lease,
        ):
            if run_id:
                from mlflow import MlflowClient

                MlflowClient().set_tag(run_id, "agent.retrain", model_name)
                MlflowClient().set_tag(run_id, "agent.retrain.reason", reason[:5000])
            prepare_workspace(
                folder,
                feedback=Path(feedback).absolute() if feedback else None,
                agent=agent,
                ingest={
                    "base": base,
                    "exclude_intents": _names(exclude_intents),
                    "holdout_share": holdout_share,
                },
                train={"seed": seed},
                evaluate={
                    "suites": _names(suites),
                    "suite_builder": suite_builder,
                    "limit": limit,
                    "workers": workers,
                    "experiment": experiment,
                },
                register={"model_name": model_name, "to": to},
                request={"reason": reason},
            )
            try:
                result = run_pipeline(folder, reason=reason, lease=lease)
            finally:
                # Also of data that stopped the pipeline: that is when somebody wants to read it.
                if run_id:
                    _log_data_version(folder, run_id)
                    _log_validation(folder / _BUILD, run_id)
            if run_id:
                _log(result, model_name, run_id)
    except AgentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(json.dumps(result["request"], sort_keys=True))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
