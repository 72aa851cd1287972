"""`mlflow-agents server` as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

START_SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AgentsServer:
    """A running server; `said` is what it printed about itself.

    Args:
        folder: What it keeps.
        options: More options.
        environment: Variables it gets beside this process's.
    """

    def __init__(
        self, folder: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder.with_name(f"{folder.name}.log")
        self._out = folder.with_name(f"{folder.name}.out")
        command = [
            sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "server", "--json",
            "--dir", str(folder), "--port", str(port), "--workers", "1", *options,
        ]  # fmt: skip
        variables = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(environment or {}),
        }
        with self.log.open("ab") as log, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=log, env=variables, cwd=folder.parent
            )

    @property
    def said(self) -> str:
        return self._out.read_text("utf-8")

    def __enter__(self) -> AgentsServer:  # noqa: PYI034 - Self is not in Python 3.10
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=2).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(self.log.read_text("utf-8", "replace")[-3000:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
