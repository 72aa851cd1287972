"""A served agent and its limits, from outside: curl's view, with a Redis and an operator beside it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest
import yaml
from helpers.model_server import ModelServer
from helpers.redis_server import RedisServer, need_redis
from helpers.shelf_agent import call, say, write_bundle

pytestmark = pytest.mark.integration

SWITCH = [sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "switch"]


@pytest.fixture
def redis_server(tmp_path):
    need_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served(tmp_path, redis_server):
    """Serve a logged shelf agent by MLflow's own command; give a function that talks to it."""
    import mlflow_agent_plugin as agents

    root = write_bundle(
        tmp_path / "bundle", [call("look", "a"), say("hi")] * 9, folder=tmp_path / "shelf"
    )
    path = root / "agent.yaml"
    quotas = [{"per": "session", "of": "requests", "limit": 4, "every_seconds": 31_536_000}]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"quotas": quotas}))
    model = agents.log_agent(root)
    limits = {"MLFLOW_AGENTS_LIMITS_URI": redis_server.uri}
    with ModelServer(model.model_uri, tmp_path, limits) as server:
        yield lambda session: server.post(
            {
                "input": [{"role": "user", "content": "go"}],
                "context": {"conversation_id": session},
            }
        )


def within_a_second(ask, session, wanted):
    """Return the first answer `wanted` accepts; no try begun a second after this may miss it.

    Every try is a conversation of its own, so that none of them uses up another's quota. When a
    try was begun counts, not when it was answered: that says how busy the machine is.
    """
    started = time.monotonic()
    for number in itertools.count():
        begun = time.monotonic()
        answer = ask(f"{session}-{number}")
        if wanted(answer):
            return answer
        assert begun - started < 1.0, f"not within a second: {answer.status_code} {answer.text}"
    return None


def test_a_served_agent_is_stopped_by_an_operator_and_by_its_quota(served, redis_server):
    first = served("s1")
    assert first.json()["custom_outputs"]["calls"][0]["status"] == "executed"

    subprocess.run([*SWITCH, "stop", "agent", "shelf", "--reason", "private"], check=True)
    stopped = within_a_second(served, "s2", lambda answer: answer.status_code == 503)
    assert stopped.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "private" not in stopped.text
    subprocess.run([*SWITCH, "start", "agent", "shelf", "--reason", "done"], check=True)
    within_a_second(served, "s3", lambda answer: answer.status_code == 200)

    redis_server.stop()
    away = served("s4")
    assert away.status_code == 503
    assert "hush-hush" not in away.text
    redis_server.start()

    answers = [served("t") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    body = answers[-1].json()
    assert body["error_code"] == "RESOURCE_EXHAUSTED"
    assert body["retry_after_seconds"] > 0
    assert "Traceback" not in answers[-1].text
