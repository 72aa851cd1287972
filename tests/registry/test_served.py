"""`mlflow models serve` on a gated registry starts with what was promoted, and with nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient

pytestmark = pytest.mark.integration

START_SECONDS = 120


class Serving:
    """An `mlflow models serve` process in a process group of its own."""

    def __init__(self, folder: Path, model: str, registry_uri: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"serve-{port}.log"
        binaries = Path(sys.executable).parent
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(binaries / "mlflow"), "models", "serve", "-m", model,
                 "--env-manager", "local", "--port", str(port)],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder,
                env={**os.environ, "MLFLOW_REGISTRY_URI": registry_uri,
                     "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
            )  # fmt: skip

    def answers(self) -> bool:
        """Wait until it answers (True) or has ended (False)."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/ping", timeout=2).ok:
                    return True
            except requests.RequestException:
                if self.process.poll() is not None:
                    return False
                time.sleep(0.2)
        raise TimeoutError(self.said())

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def stop(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def serve(world, tmp_path):
    """Serve a model URI with the world's registry; everything started is stopped."""
    started: list[Serving] = []

    def start(model: str, registry_uri: str = world.registry_uri) -> Serving:
        started.append(Serving(tmp_path, model, registry_uri))
        return started[-1]

    yield start
    for serving in started:
        serving.stop()


def leave_mark(root: Path) -> None:
    graph = root / "graph.py"
    graph.write_text(graph.read_text() + "open('ran', 'w').close()\n")


def test_a_server_starts_with_what_was_promoted_and_not_with_what_came_past_the_registry(
    world, serve, tmp_path
):
    world.promoted("one", "@champion")
    promoted = serve("models:/shelf@champion")
    mlflow.set_registry_uri(world.registry_uri)
    changed = Path(mlflow.artifacts.download_artifacts("models:/shelf@champion"))
    tools = changed / "agent" / "tools.py"
    tools.chmod(0o644)
    tools.write_text(tools.read_text() + "open('ran', 'w').close()\n")
    assert promoted.answers(), promoted.said()
    question = {"input": [{"role": "user", "content": "hi"}]}
    answer = requests.post(f"{promoted.url}/invocations", json=question, timeout=60)
    assert answer.json()["output"][0]["content"][0]["text"] == "one"
    promoted.stop()

    version = world.register("two", edit=leave_mark)
    stock_uri = world.registry_uri.removeprefix("agents+")
    MlflowClient(registry_uri=stock_uri).set_registered_model_alias(
        "shelf", "champion", str(version)
    )
    moved = serve("models:/shelf@champion")
    edited = serve(str(changed))
    past = serve("models:/shelf@champion", stock_uri)
    assert not moved.answers()
    assert "the registry put version 1 there" in moved.said()
    assert not edited.answers()
    assert "promoted was" in edited.said()
    assert not past.answers()
    assert "no registry ever said" in past.said()
    assert not (tmp_path / "ran").exists()
