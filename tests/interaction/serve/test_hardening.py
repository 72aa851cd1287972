"""The front end as a real server: slow clients, clients that leave, quotas, a store that goes away."""

from __future__ import annotations

import json
import socket
import threading
import time
from urllib.parse import urlparse

import pytest
import requests
import uvicorn
import yaml
from helpers.cut_link import CutLink
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.package import load_bundle

pytestmark = pytest.mark.integration


class Running:
    """A front end on a real socket, in this process."""

    def __init__(self, tmp_path, replies, *, edit=None, **settings):
        root = write_bundle(tmp_path / "shelf", replies, folder=tmp_path / "things")
        if edit is not None:
            edit(root)
        entries, self.headers = [], {}
        for actor in ("ann@home", "bea@home"):
            key, digest = make_key()
            entries.append({"sha256": digest, "actor": actor})
            self.headers[actor[:3]] = {"Authorization": f"Bearer {key}"}
        (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
        runtime = AgentRuntime.open(load_bundle(root), tracing=False)
        chosen = ServeSettings(
            agents={"shelf": "x"}, keys=str(tmp_path / "keys.yaml"), follow_seconds=0, **settings
        )
        app = make_app(chosen, ServedAgents({"shelf": runtime}, Settings.from_env()))
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, who="ann", **more):
        return requests.post(
            f"{self.url}/v1/responses", json={"input": "hi", **more},
            headers=self.headers[who], timeout=60, stream=bool(more.get("stream")),
        )  # fmt: skip

    def running_turns(self):
        text = requests.get(f"{self.url}/metrics", timeout=10).text
        line = next(
            line
            for line in text.splitlines()
            if line.startswith("mlflow_agents_http_turns_running{")
        )
        return float(line.rpartition(" ")[2])

    def close(self):
        self._server.should_exit = True
        self._thread.join(60)


@pytest.fixture
def run(tmp_path):
    started = []

    def start(*replies, **settings):
        started.append(Running(tmp_path, list(replies), **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_body_that_drips_is_ended(run):
    front = run(say("x"), body_seconds=0.3)
    with socket.create_connection(("127.0.0.1", front.port)) as link:
        head = "POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n"
        head += f"Authorization: {front.headers['ann']['Authorization']}\r\n\r\n"
        link.sendall(head.encode() + b'{"inp')
        link.settimeout(30)
        assert b" 408 " in link.recv(200)
    assert front.ask().status_code == 200


def test_a_stream_whose_client_leaves_frees_its_place(run):
    front = run(*[call("look", "lamp", call_id=f"c{n}") for n in range(6)], say("x" * 2000),
                max_concurrent=1)  # fmt: skip
    for _ in range(3):
        answer = front.ask(stream=True)
        next(answer.iter_content(1))
        answer.close()
    deadline = time.monotonic() + 30
    while front.running_turns():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert front.ask().status_code == 200


def test_a_used_up_quota_is_429_with_retry_after_for_its_user_alone(run):
    def limit(root):
        path = root / "agent.yaml"
        quota = {"per": "user", "of": "requests", "limit": 2, "every_seconds": 31_536_000}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"quotas": [quota]}))

    front = run(say("x"), edit=limit)
    assert [front.ask().status_code for _ in range(2)] == [200, 200]
    for more in ({}, {"stream": True}):
        refused = front.ask(**more)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit"
    assert front.ask("bea").status_code == 200


def test_readiness_fails_while_the_store_is_away_and_recovers_with_it(
    run, postgres_uri, monkeypatch
):
    address = urlparse(postgres_uri)
    link = CutLink(address.hostname, address.port)
    through = postgres_uri.replace(f":{address.port}/", f":{link.port}/")
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_URI", through)
    front = run(say("x"))
    try:
        assert requests.get(f"{front.url}/ready", timeout=30).status_code == 200
        assert front.ask().status_code == 200
        link.cut()
        for _ in range(2):
            assert requests.get(f"{front.url}/ready", timeout=30).status_code == 503
            away = front.ask()
            assert away.status_code == 503
            assert "Traceback" not in away.text
            assert "password" not in away.text.lower()
        assert requests.get(f"{front.url}/health", timeout=30).status_code == 200
        link.mend()
        assert requests.get(f"{front.url}/ready", timeout=30).status_code == 200
        deadline = time.monotonic() + 60  # a pool may still hold connections of before
        while front.ask().status_code != 200:
            assert time.monotonic() < deadline
        assert [front.ask().status_code for _ in range(4)] == [200] * 4
    finally:
        link.mend()
        front.close()
        link.close()
