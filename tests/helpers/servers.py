"""A real `mlflow server` with a gated registry, and a world that meets it over REST."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests
from helpers.registry_world import GATE, World


class Server:
    """An `mlflow server` process."""

    def __init__(self, folder: Path, *extra: str, env: dict | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--registry-store-uri", f"agents+sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", str(folder / "artifacts"), *extra,
        ]  # fmt: skip
        environment = {
            **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(env or {})
        }  # fmt: skip
        environment.pop("MLFLOW_TRACKING_URI", None)
        environment.pop("MLFLOW_REGISTRY_URI", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{self.url}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(self.log.read_text()[-3000:])
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def remote_world(folder, server, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(server.url)
    world = World(folder, server.url)

    def register(text="hello", gate=None, *, name=World.NAME, **kwargs):
        from mlflow_agent_plugin.core import log_agent

        info = log_agent(
            world.bundle(text, gate or GATE), registered_model_name=name, register_prompts=False
        )
        return int(info.registered_model_version)

    world.register = register
    world.runs_location = None
    return world
