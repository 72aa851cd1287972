"""`mlflow-agents serve` as a process of its own: started, asked, ended while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from helpers.agents_server import free_port
from helpers.shelf_agent import call, say, write_bundle

pytestmark = pytest.mark.integration


@pytest.fixture
def serving(tmp_path, cli):
    """Start the front end before a saved agent; give its process, address and an API key."""
    from mlflow_agent_plugin.core.flavor import save_model
    from mlflow_agent_plugin.package import load_bundle

    replies = [call("put", "lamp"), say("done")]
    bundle = write_bundle(tmp_path / "shelf", replies, folder=tmp_path / "things")
    save_model(tmp_path / "model", bundle=load_bundle(bundle))
    keys = tmp_path / "keys.yaml"
    key = cli("api-key", "make", "ann@home", "--file", keys, "--days", "1", "--json").json["key"]
    assert key not in keys.read_text()
    port = free_port()
    log = (tmp_path / "serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "serve",
         f"shelf={tmp_path / 'model'}", "--keys", str(keys), "--port", str(port)],
        stdout=log, stderr=log, env={**os.environ, "MLFLOW_AGENTS_TRACING": "false"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            if requests.get(f"{url}/ready", timeout=2).ok:
                break
        except requests.RequestException:
            text = (tmp_path / "serve.log").read_text("utf-8", "replace")
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
    yield process, url, {"Authorization": f"Bearer {key}"}
    process.kill()
    process.wait()
    log.close()


def test_ending_it_loses_no_request_it_had_taken(serving, tmp_path):
    process, url, headers = serving
    answer = requests.post(f"{url}/v1/responses", json={"input": "hi"}, headers=headers, timeout=60)
    assert answer.json()["output"][0]["content"][0]["text"] == "done"
    assert requests.post(f"{url}/v1/responses", json={"input": "hi"}, timeout=60).status_code == 401

    def ask(number):
        try:
            found = requests.post(
                f"{url}/v1/responses", json={"input": f"put {number}"}, headers=headers, timeout=60
            )
        except requests.ConnectionError:
            return None  # never taken: the client may try the next worker
        return found.status_code

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, number) for number in range(40)]
        waiting[0].result()
        process.send_signal(signal.SIGTERM)
        statuses = [each.result() for each in waiting]
    assert process.wait(60) is not None
    assert {status for status in statuses if status is not None} == {200}

    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditLog

    with Store.open() as store:
        log = AuditLog(store)
        assert len(log.events(kind="request_answered")) == 1 + statuses.count(200)
        assert log.verify().ok
    effects = (tmp_path / "things" / "effects.txt").read_text().splitlines()
    assert len(effects) == 1 + statuses.count(200)


def test_what_cannot_be_served_is_one_line_before_anything_starts(tmp_path, cli):
    said = cli("serve", "models:/nobody/1", "--keys", tmp_path / "none.yaml", code=2)
    assert "none.yaml" in said.err
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: [{sha256: x, actor: a@b}]")
    said = cli("serve", "models:/nobody/1", "--keys", keys, code=1)
    assert "keys.0.sha256" in said.err
    said = cli("serve", "a=models:/x/1", "a=models:/y/1", code=1)
    assert "two agents are called a" in said.err
    said = cli("serve", "models:/x/1", "--oidc-issuer", "https://login.example.com", code=1)
    assert "an issuer and an audience" in said.err


def test_a_key_file_that_is_none_is_not_written_over(tmp_path, cli):
    path = tmp_path / "keys.yaml"
    path.write_text("something: else\n")
    assert "is no file of API keys" in cli("api-key", "make", "a@b", "--file", path, code=1).err
    assert path.read_text() == "something: else\n"
    assert "gives roles" in cli("api-key", "make", "a:b", "--file", path, code=1).err
