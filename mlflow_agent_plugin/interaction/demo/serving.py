"""`mlflow models serve` in a process of its own, and a client that talks to it as anyone would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import AgentRunError
from mlflow_agent_plugin.interaction.demo.place import Place, free_port

START_SECONDS = 120.0
STOP_SECONDS = 60.0


class Client:
    """Talks to a served agent over HTTP.

    Attributes:
        url: Where it is served.
    """

    def __init__(self, url: str) -> None:
        import requests

        self.url = url
        self._http = requests.Session()

    def ask(self, text: str, *, session_id: str, token: str, **custom: Any) -> dict[str, Any]:
        """Send one user message and return the Responses response."""
        return self.send({"input": [{"role": "user", "content": text}]}, session_id, token, custom)

    def resume(self, approval_id: str, *, session_id: str, token: str) -> dict[str, Any]:
        """Continue a conversation whose approval has been answered."""
        item = {
            "type": "mcp_approval_response",
            "approval_request_id": approval_id,
            "approve": True,
        }
        return self.send({"input": [item]}, session_id, token, {})

    def send(
        self, payload: dict[str, Any], session_id: str, token: str, custom: dict[str, Any]
    ) -> dict[str, Any]:
        """Post one request.

        Raises:
            AgentRunError: The server answered with an error.
        """
        body = {
            **payload,
            "context": {"conversation_id": session_id},
            "custom_inputs": {"actor_token": token, **custom},
        }
        answer = self._http.post(f"{self.url}/invocations", json=body, timeout=60)
        if answer.status_code != 200:
            raise AgentRunError(f"HTTP {answer.status_code}: {answer.text[:300]}", where=self.url)
        return dict(answer.json())


def text_of(response: dict[str, Any]) -> str:
    """Return the text of a response's message items."""
    return "\n".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


@contextmanager
def served(place: Place, model_uri: str, *, resources: dict[str, Any]) -> Iterator[Client]:
    """Serve `model_uri` by `mlflow models serve` while the block runs.

    Raises:
        AgentRunError: The server did not come up; the message ends with its last lines.
    """
    port = free_port()
    log_path = place.folder / "serve.log"
    command = [
        sys.executable, "-m", "mlflow", "models", "serve",
        "--model-uri", model_uri, "--env-manager", "local", "--port", str(port),
    ]  # fmt: skip
    environment = {
        **place.environment(),
        "MLFLOW_AGENTS_RESOURCES": json.dumps(resources),
        "MLFLOW_EXPERIMENT_NAME": "support-traffic",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=place.folder,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}", log_path)
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    import requests

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/ping", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    tail = log_path.read_text(errors="replace").strip().splitlines()[-5:]
    raise AgentRunError("the model server did not start: " + " | ".join(tail), where=str(log_path))


def _stop(process: subprocess.Popen[bytes]) -> None:
    # The server is a small tree of processes, over when the last of them is gone: the one that
    # answered requests still writes its last traces after the others have ended. It does so on
    # SIGINT; on SIGTERM uvicorn ends the process without its exit handlers.
    for number, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        try:
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return
