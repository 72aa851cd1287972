"""Two front ends on one PostgreSQL and one Redis: one conversation, one quota, one outage.

What docs/how-to/share-state.md says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import requests
import yaml
from helpers.agents_server import free_port
from helpers.postgres_server import PostgresServer
from helpers.redis_server import RedisServer, need_redis
from helpers.shelf_agent import call, say, write_bundle

pytestmark = pytest.mark.integration

LIMIT = 6


@pytest.fixture
def database():
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def cache(tmp_path):
    need_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def pair(tmp_path, cli, database, cache):
    """Start two front ends before one agent; give their addresses and an API key's header."""
    from mlflow_agent_plugin.core.flavor import save_model
    from mlflow_agent_plugin.package import load_bundle

    root = write_bundle(
        tmp_path / "shelf", [call("put", "lamp"), say("done")] * 20, folder=tmp_path / "things"
    )
    manifest = yaml.safe_load((root / "agent.yaml").read_text())
    quota = {"per": "user", "of": "requests", "limit": LIMIT, "every_seconds": 31_536_000}
    (root / "agent.yaml").write_text(yaml.safe_dump(manifest | {"quotas": [quota]}))
    save_model(tmp_path / "model", bundle=load_bundle(root))
    keys = tmp_path / "keys.yaml"
    key = cli("api-key", "make", "ann@home", "--file", keys, "--days", "1", "--json").json["key"]
    environment = {
        **os.environ,
        "MLFLOW_AGENTS_TRACING": "false",
        "MLFLOW_AGENTS_STORE_URI": database.create_database(),
        "MLFLOW_AGENTS_LIMITS_URI": cache.uri,
        "MLFLOW_AGENTS_STORE_POOL": "4",
    }
    processes, urls = [], []
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        for _ in range(2):
            port = free_port()
            urls.append(f"http://127.0.0.1:{port}")
            command = [
                sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "serve",
                f"shelf={tmp_path / 'model'}", "--keys", str(keys), "--port", str(port),
            ]  # fmt: skip
            started = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            processes.append(started)
    try:
        deadline = time.monotonic() + 180
        for url, process in zip(urls, processes, strict=True):
            while status(f"{url}/ready") != 200:
                assert process.poll() is None, log.read_text("utf-8", "replace")
                assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
                time.sleep(0.2)
        yield urls, {"Authorization": f"Bearer {key}"}
    finally:
        for process in processes:
            process.kill()
            process.wait()


def status(url):
    try:
        return requests.get(url, timeout=20).status_code
    except requests.ConnectionError:
        return None


def test_two_processes_share_conversations_and_quotas_and_survive_an_outage(pair, database, cache):
    (one, two), headers = pair

    def ask(url, session):
        return requests.post(
            f"{url}/v1/responses", headers=headers, timeout=90,
            json={"input": "put it there", "context": {"conversation_id": session}},
        )  # fmt: skip

    assert [ask(url, "s").status_code for url in (one, two, one)] == [200, 200, 200]

    database.stop()
    try:
        for url in (one, two):
            assert ask(url, "s").status_code == 503
            assert status(f"{url}/ready") == 503
            assert status(f"{url}/health") == 200
    finally:
        database.start()
    assert [status(f"{url}/ready") for url in (one, two)] == [200, 200]
    assert [ask(url, "s").status_code for url in (one, two)] == [200, 200]

    cache.stop()
    refused = ask(one, "s")
    assert refused.status_code == 503
    assert "hush-hush" not in refused.text
    cache.start()  # in memory only: it has forgotten what was used
    answers = [ask(url, "t").status_code for url in (one, two) * 4]
    assert answers == [200] * LIMIT + [429] * 2
