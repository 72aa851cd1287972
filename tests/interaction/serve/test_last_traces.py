"""SIGTERM right after an answer: no trace is lost, by MLflow's own server or by the front end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from helpers.agents_server import free_port
from helpers.shelf_agent import say, write_bundle

pytestmark = pytest.mark.integration

REQUESTS = 12


@pytest.mark.parametrize("server", ["mlflow models serve", "mlflow-agents serve"])
def test_every_answered_request_has_its_trace_after_sigterm(tmp_path, cli, server):
    from mlflow import MlflowClient

    from mlflow_agent_plugin.core.flavor import save_model
    from mlflow_agent_plugin.package import load_bundle

    bundle = write_bundle(tmp_path / "shelf", [say("hi")] * 3, folder=tmp_path / "things")
    save_model(tmp_path / "model", bundle=load_bundle(bundle))
    port, headers = free_port(), {}
    binaries = Path(sys.executable).parent
    if server == "mlflow models serve":
        command = [str(binaries / "mlflow"), "models", "serve", "-m", str(tmp_path / "model"),
                   "--env-manager", "local", "--port", str(port)]  # fmt: skip
    else:
        keys = tmp_path / "keys.yaml"
        key = cli("api-key", "make", "ann@home", "--file", keys, "--json").json["key"]
        headers = {"Authorization": f"Bearer {key}"}
        command = [sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "serve",
                   f"shelf={tmp_path / 'model'}", "--keys", str(keys), "--port", str(port)]  # fmt: skip
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def ask(number):
        body = {"input": [{"role": "user", "content": f"hi {number}"}]}
        return requests.post(f"{url}/invocations", json=body, headers=headers, timeout=60).json()

    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{url}/ping", timeout=2).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
            time.sleep(0.2)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(REQUESTS)))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    wanted = {answer["custom_outputs"]["trace_id"] for answer in answers}
    assert len(wanted) == REQUESTS
    cli("spool", "drain", code=None)
    found = MlflowClient().search_traces(locations=["0"], max_results=100)
    assert {trace.info.trace_id for trace in found} == wanted
