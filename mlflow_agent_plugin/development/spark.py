"""Plays a suite on Spark: the same cases in the same watched workers, spread over a cluster.

Rules:
- A task runs one worker process of its own (see `pool`), so a case that hangs or kills its process
  costs that case only, here too, and results are the same row by row.
- The agent's digested files travel with the job; each worker checks their digest before it opens
  them. The package has to be installed on the executors.
- Results come back partition by partition: a killed run goes on after the last whole partition.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.case import CaseRun
from mlflow_agent_plugin.development.pool import Worker
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.package import Bundle

CASES_PER_TASK = 500
"""Starting a worker takes seconds, a case milliseconds: tasks are not made smaller than this,
unless that would leave cores idle."""


class SparkPool:
    """Spark tasks on one list of scenarios; the counterpart of `pool.WorkerPool`.

    Args:
        bundle: The agent.
        setup: What each worker opens.
        suite: Name of the suite.

    Attributes:
        audit_events: Audit events of all workers, each audit verified.
    """

    def __init__(self, bundle: Bundle, setup: Mapping[str, Any], *, suite: str) -> None:
        self._archive = _pack(bundle)
        self._setup = dict(setup)
        self._suite = suite
        self.audit_events = 0

    def play(self, scenarios: Sequence[Scenario]) -> Iterator[CaseRun]:
        """Play `scenarios`, yielding runs as their partitions end.

        Raises:
            ConfigError: Spark is not installed.
        """
        session = _session()
        cores = int(session.sparkContext.defaultParallelism)
        tasks = max(cores, -(-len(scenarios) // CASES_PER_TASK))
        texts = [
            (json.dumps(scenario.model_dump(mode="json", exclude_unset=True)),)
            for scenario in scenarios
        ]
        frame = session.createDataFrame(texts, "scenario string")
        frame = frame.repartition(min(tasks, len(scenarios)))
        play = make_task(self._archive, self._setup, self._suite)
        for row in frame.mapInPandas(play, "answer string").toLocalIterator():
            answer = json.loads(row["answer"])
            if "run" in answer:
                yield CaseRun.from_dict(answer["run"])
            else:
                self.audit_events += int(answer["closed"]["audit_events"])


def make_task(
    archive: bytes, setup: Mapping[str, Any], suite: str
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """Return the function Spark runs on each partition."""

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import pandas as pd

        with tempfile.TemporaryDirectory(prefix="agent-") as folder:
            with zipfile.ZipFile(io.BytesIO(archive)) as packed:
                packed.extractall(folder)
            for answer in _play_all({**setup, "bundle": folder}, suite, frames):
                yield pd.DataFrame({"answer": [json.dumps(answer)]})

    return task


def _play_all(
    setup: Mapping[str, Any], suite: str, frames: Iterator[pd.DataFrame]
) -> Iterator[dict[str, Any]]:
    worker: Worker | None = None
    try:
        for frame in frames:
            for text in frame["scenario"]:
                worker = worker or Worker(setup)
                run, good = worker.play(Scenario.model_validate_json(text), suite=suite)
                yield {"run": run.to_dict()}
                if not good:
                    worker = None
        if worker is not None:
            counted = worker.close()
            worker = None
            yield {"closed": counted}
    finally:
        if worker is not None:
            worker.kill()


def _pack(bundle: Bundle) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in bundle.digest.files:
            packed.writestr(file.path, bundle.read_bytes(file.path))
    return buffer.getvalue()


def _session() -> Any:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            "Spark is not installed", hint="pip install 'mlflow-agent-plugin[spark]'"
        ) from error
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    # A session of our own runs Python as this process does; an existing one knows its cluster.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return (
        SparkSession.builder.appName("mlflow-agents evaluate")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
