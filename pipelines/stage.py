"""What every stage shares: where its parameters stand, how it writes, how it fails.

Rules:
- A stage takes its parameters from ``params.yaml``, not from the command line: what a user typed
  never passes through a shell.
- It writes its result last, by renaming: a stage that failed has no result.
- It fails with one line, ``error: …``, and exit code 2; a stack trace is a bug.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field

from mlflow_agent_plugin.errors import AgentError, ConfigError, PipelineError
from mlflow_agent_plugin.package import StrictModel, read_yaml, validate_document

PARAMS_FILE = "params.yaml"


class IngestParams(StrictModel):
    """Where the examples come from.

    Attributes:
        base: Folder with train.csv and test.csv; empty: BANKING77, or the project's small set.
        feedback: CSV or parquet file with text and label, or of all that people said
            (`lifecycle.collect_remarks`).
        exclude_intents: Intents of the base data to leave out (feedback may still bring them).
        holdout_share: Share of the feedback kept back, for the suite on new traffic.
    """

    base: str = ""
    feedback: str = "pipelines/no_feedback.csv"
    exclude_intents: list[str] = Field(default_factory=list)
    holdout_share: float = Field(default=0.2, ge=0, lt=1)


class TrainParams(StrictModel):
    """How the planner is trained."""

    seed: int = Field(default=0, ge=0)


class EvaluateParams(StrictModel):
    """What the candidate is evaluated on.

    Attributes:
        suites: Suite files or folders; empty: one made from the base data's test split.
        suite_builder: Module that makes scenarios of labelled requests (`SuiteBuilder`); empty:
            no suite is made of the feedback kept back.
        limit: Most scenarios per suite; 0: all.
        workers: Processes.
        incumbent: Compare with the version that `register.to` points to.
        experiment: MLflow experiment of candidate and evaluation.
    """

    suites: list[str] = Field(default_factory=list)
    suite_builder: str = "evaluations.support.build_suite"
    limit: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1, le=256)
    incumbent: bool = True
    experiment: str = "retraining"


class RegisterParams(StrictModel):
    """Which model the candidate becomes a version of, and where it is to go."""

    model_name: str = Field(default="support", min_length=1)
    to: str = Field(default="Production", min_length=1, description="Stage, or @alias")


class RequestParams(StrictModel):
    """What the promotion request says besides the numbers."""

    reason: str = ""


class Params(StrictModel):
    """The whole of ``params.yaml``.

    Attributes:
        code: Folder of the stages' modules (DVC watches them).
        agent: Folder of the agent's bundle.
        build: Folder for everything the stages make.
    """

    code: str = "pipelines"
    agent: str = "agents/support"
    build: str = "build/pipeline"
    ingest: IngestParams = IngestParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    register_: RegisterParams = Field(default=RegisterParams(), alias="register")
    request: RequestParams = RequestParams()

    @property
    def dataset(self) -> Path:
        """Folder of the examples."""
        return Path(self.build) / "dataset"

    @property
    def remarks(self) -> Path:
        """All that people said, as it came in, masked."""
        return Path(self.build) / "remarks.csv"

    @property
    def data_docs(self) -> Path:
        """Folder of Great Expectations' report."""
        return Path(self.build) / "data_docs"

    @property
    def bundle(self) -> Path:
        """Folder of the candidate's bundle."""
        return Path(self.build) / "bundle"

    def result(
        self,
        stage: Literal["target", "validation", "remarks_validation", "evaluation", "version"],
    ) -> Path:
        """Return where the result of a stage is."""
        return Path(self.build) / f"{stage}.json"


def read_params(path: str | Path = PARAMS_FILE) -> Params:
    """Read the parameters.

    Raises:
        ConfigError: The file is missing or malformed; with file, line and field.
    """
    return validate_document(read_yaml(Path(path), error=ConfigError), Params, error=ConfigError)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read what a stage before wrote.

    Raises:
        PipelineError: It is not there, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"the result of an earlier stage cannot be read: {error}",
            where=str(path),
            hint="Run `dvc repro`, which runs the stages in order.",
        ) from error
    if not isinstance(value, dict):
        raise PipelineError("is no result of a stage", where=str(path))
    return value


def stage(function: Callable[[Params], str]) -> click.Command:
    """Make a command of a stage: it reads the parameters, runs, and prints one line."""

    @click.command(help=function.__doc__)
    @click.option("--params", "path", default=PARAMS_FILE, show_default=True, help="Parameters.")
    @functools.wraps(function)
    def command(path: str) -> None:
        try:
            click.echo(function(read_params(path)))
        except AgentError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except Exception as error:
            # Not imported to be caught: most stages do without MLflow, which takes seconds to load.
            if type(error).__name__ not in ("MlflowException", "RestException"):
                raise
            click.echo(f"error: MLflow says: {error}", err=True)
            sys.exit(2)

    return command
