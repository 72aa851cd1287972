"""The demo's story, chapter by chapter."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.interaction.demo.improvement import back_and_forward, improve
from mlflow_agent_plugin.interaction.demo.launch import first_version, prepare_data, promote_first
from mlflow_agent_plugin.interaction.demo.place import Place, prepare
from mlflow_agent_plugin.interaction.demo.report import DemoResult, Teller
from mlflow_agent_plugin.interaction.demo.service import serve, watch
from mlflow_agent_plugin.interaction.demo.story import MODEL, Story

CHAPTERS = (prepare_data, first_version, promote_first, serve, watch, improve, back_and_forward)


def run_demo(folder: Path, *, workers: int = 2, quiet: bool = False) -> DemoResult:
    """Run the whole loop in `folder` and return what was measured.

    Args:
        folder: Is emptied if an earlier demo made it, and then holds everything the demo makes.
        workers: Processes that evaluate.
        quiet: Print nothing.

    Raises:
        ConfigError: This is no checkout, or `folder` holds something else.
        AgentError: A step failed; the message says which part and why.
    """
    place = prepare(folder)
    result = DemoResult()
    story = Story(place, workers, Teller(result, quiet=quiet), result)
    with _environment(place):
        for chapter in (
            prepare_data,
            first_version,
            promote_first,
            serve,
            watch,
            improve,
            back_and_forward,
        ):
            chapter(story)
    _numbers(story)
    server = (
        f"  {Path(sys.executable).parent / 'mlflow'} server --port 5000"
        f" --backend-store-uri {place.tracking_uri} --registry-store-uri {place.registry_uri}"
        f" --default-artifact-root {place.artifacts}"
    )
    result.look = [
        "Look at it:",
        server,
        f"  open http://127.0.0.1:5000/#/models/{MODEL}    drift report: {place.folder}/drift",
    ]
    result.ok = True
    result.save(place.folder / "result.json")
    story.teller.table()
    return result


def _numbers(story: Story) -> None:
    numbers = story.result.numbers
    before, after = (numbers[f"v{v}_later"]["task_success"]["value"] for v in (1, 2))
    numbers["later_task_success"] = {"before": before, "after": after}


@contextmanager
def _environment(place: Place) -> Iterator[None]:
    """Run the block in the demo's environment, quietly, with the project importable."""
    before, during = dict(os.environ), place.environment()
    path = list(sys.path)
    os.environ.clear()
    os.environ.update(during)
    sys.path.insert(0, str(place.project))
    for name in ("mlflow", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        import mlflow

        mlflow.set_tracking_uri(place.tracking_uri)
        mlflow.set_registry_uri(place.registry_uri)
        _experiments(place, mlflow)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path


def _experiments(place: Place, mlflow: Any) -> None:
    # Artifacts of every experiment stay in the demo's folder.
    for name in ("support", "support-traffic", "drift", "retraining"):
        mlflow.create_experiment(name, artifact_location=(place.artifacts / name).as_uri())
    mlflow.set_experiment("support")
