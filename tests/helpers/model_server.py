"""`mlflow models serve` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests
from helpers.agents_server import START_SECONDS, free_port


class ModelServer:
    """A served model; `log` is what it printed.

    Args:
        model: URI or folder of the model.
        folder: Where its log goes.
        environment: Variables it gets beside this process's.
    """

    def __init__(self, model: str, folder: Path, environment: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "serve.log"
        programs = Path(sys.executable).parent
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(programs / "mlflow"), "models", "serve", "-m", model,
                 "--env-manager", "local", "--port", str(port)],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={
                    **os.environ, **environment,
                    "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                },
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> ModelServer:  # noqa: PYI034 - Self is not in Python 3.10
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/ping", timeout=2).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(self.log[-3000:])

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def post(self, body: object, **more: object) -> requests.Response:
        """Send a request: an object as JSON, bytes as they are."""
        if not isinstance(body, bytes):
            return requests.post(f"{self.url}/invocations", json=body, timeout=60, **more)
        headers = {"Content-Type": "application/json"}
        return requests.post(f"{self.url}/invocations", data=body, headers=headers, timeout=60)
