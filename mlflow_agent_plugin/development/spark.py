"""Plays a suite on Spark: the same cases in the same watched workers, spread over a cluster.

Rules:
- A task runs one worker process of its own (see `pool`), so a case that hangs or kills its process
  costs that case only, here too, and results are the same row by row.
- The agent's digested files travel once to each executor, as a file; each worker checks their
  digest before it opens them. The package has to be installed on the executors.
- Every task is a Spark job of its own, as many at once as there are cores. Results come back task
  by task: a run that was killed goes on after the last whole task, and a task whose executor died
  is played again, from its first case.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.case import CaseRun
from mlflow_agent_plugin.development.pool import Worker
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.observability.spark import spark_session

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
        self._bundle = bundle
        self._setup = dict(setup)
        self._suite = suite
        self.audit_events = 0

    def play(self, scenarios: Sequence[Scenario]) -> Iterator[CaseRun]:
        """Play `scenarios`, yielding runs as their tasks end.

        Raises:
            ConfigError: Spark is not installed.
        """
        session = spark_session("mlflow-agents evaluate")
        cores = int(session.sparkContext.defaultParallelism)
        tasks = min(len(scenarios), max(cores, -(-len(scenarios) // CASES_PER_TASK)))
        texts = [
            json.dumps(scenario.model_dump(mode="json", exclude_unset=True))
            for scenario in scenarios
        ]
        play = make_task(_add(session, self._bundle), self._setup, self._suite)

        def run(share: Sequence[str]) -> list[Any]:
            frame = session.createDataFrame([(text,) for text in share], "scenario string")
            return list(frame.coalesce(1).mapInPandas(play, "answer string").collect())

        with ThreadPoolExecutor(cores, thread_name_prefix="spark") as threads:
            jobs = [threads.submit(run, texts[number::tasks]) for number in range(tasks)]
            try:
                for job in as_completed(jobs):
                    yield from self._runs(job.result())
            finally:
                for job in jobs:
                    job.cancel()

    def _runs(self, rows: Sequence[Any]) -> Iterator[CaseRun]:
        for row in rows:
            answer = json.loads(row["answer"])
            if "run" in answer:
                yield CaseRun.from_dict(answer["run"])
            else:
                self.audit_events += int(answer["closed"]["audit_events"])


def make_task(
    archive: str, setup: Mapping[str, Any], suite: str
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """Return the function Spark runs on each share of the scenarios.

    Args:
        archive: Name under which the agent's files were added to the session.
        setup: What a worker opens.
        suite: Name of the suite.
    """

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import pandas as pd
        from pyspark import SparkFiles

        with tempfile.TemporaryDirectory(prefix="agent-") as folder:
            with zipfile.ZipFile(SparkFiles.get(archive)) as packed:
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


_added: dict[tuple[str, str], str] = {}


def _add(session: Any, bundle: Bundle) -> str:
    """Add the agent's digested files to the session as one file; return its name there.

    The file stays until this process ends: an executor that starts later asks for all files that
    were ever added.
    """
    from mlflow_agent_plugin.package import copy_bundle

    key = (str(session.sparkContext.applicationId), bundle.digest.value)
    if key not in _added:
        folder = Path(tempfile.mkdtemp(prefix="agent-spark-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        copy_bundle(bundle, folder / "bundle")
        archive = folder / f"agent-{uuid.uuid4().hex}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in bundle.digest.files:
                packed.write(folder / "bundle" / file.path, file.path)
        shutil.rmtree(folder / "bundle")
        session.sparkContext.addFile(str(archive))
        _added[key] = archive.name
    return _added[key]
