"""Load tests: a real server, the real engine, evidence that can be checked again."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.development.load import LoadProfile, load_profile, run_load
from mlflow_agent_plugin.development.load.answers import read_answer
from mlflow_agent_plugin.development.load.retrying import wait_before_retry
from mlflow_agent_plugin.errors import AgentRunError, ConfigError, SuiteError
from mlflow_agent_plugin.trust import KeyStore
from mlflow_agent_plugin.trust.evidence import check_load, verify_load

DIGEST = "sha256:" + "a" * 64


class Agent:
    """A served agent over real HTTP, that limits, fails and dawdles as told."""

    def __init__(self, *, limit_first=0, retry_after="0.3", fail_every=0, seconds=0.0):
        self.seen: dict[str, int] = {}
        self.log: list[tuple[float, int]] = []
        self.count = 0
        lock = threading.Lock()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["input"][0]["content"]
                with lock:
                    agent.count += 1
                    number = agent.count
                    seen = agent.seen[text] = agent.seen.get(text, 0) + 1
                time.sleep(seconds)
                headers, status = {}, 200
                answer = {
                    "output": [], "model": "lamps", "usage": {"input_tokens": 3, "output_tokens": 2},
                    "custom_outputs": {"agent_digest": DIGEST, "calls": [
                        {"tool": "look", "status": "denied", "error": "limited: too many"},
                    ]},
                }  # fmt: skip
                if text != "probe" and seen <= limit_first:
                    status, headers, answer = 429, {"Retry-After": retry_after}, {}
                elif fail_every and number % fail_every == 0:
                    status, answer = 500, {}
                agent.log.append((time.monotonic(), status))
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):  # a client that gave up
                    self.wfile.write(data)

            def log_message(self, *args):
                del args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    """Return a function that starts an agent."""
    running = []

    def start(**how):
        running.append(Agent(**how))
        return running[-1]

    yield start
    for agent in running:
        agent.close()


def _profile(*stages, **more):
    return LoadProfile.model_validate(
        {
            "apiVersion": "mlflow-agents/v1", "name": "small", "stages": list(stages),
            "messages": ["probe", *(f"message {n}" for n in range(20))], "timeout_seconds": 5,
        } | more
    )  # fmt: skip


@pytest.mark.integration
def test_a_load_test_leaves_a_run_whose_evidence_follows_from_its_requests(serve):
    agent = serve(fail_every=7)
    profile = _profile(
        {"users": 3, "ramp_seconds": 0.6, "seconds": 2}, {"rate": 20, "seconds": 2},
        think_seconds=0.05,
    )  # fmt: skip
    told = []

    result = run_load(agent.url, profile, progress=told.append)

    client = mlflow.MlflowClient()
    folder = Path(client.download_artifacts(result.run_id, "load/small"))
    key = KeyStore().signing_key()
    evidence = verify_load(
        json.loads((folder / "load.dsse.json").read_text()), {key.key_id: key.public_key}
    )
    assert check_load(evidence, (folder / "requests.jsonl").read_bytes()) == result.levels
    closed, opened = result.levels
    assert (closed.model, closed.concurrency, opened.rate) == ("closed", 3, 20)
    assert opened.requests > 15
    assert 0.05 < opened.error_rate < 0.3
    assert opened.tool_limited == opened.tool_calls > 0
    assert opened.output_tokens == 2 * (opened.requests - opened.errors)
    assert {"report.html", "profile.json", "plots"} <= {item.name for item in folder.iterdir()}
    run = client.get_run(result.run_id)
    assert run.data.tags["agent.digest"] == DIGEST
    assert run.data.metrics["load/small/p95_seconds"] == opened.p95_seconds
    assert told[-1]["ended"] == len(result.requests)
    assert "p95" in str(result)


@pytest.mark.integration
def test_a_rate_limit_is_honoured_and_never_answered_by_a_storm(serve):
    agent = serve(limit_first=1, retry_after="0.4")
    result = run_load(agent.url, _profile({"users": 1, "seconds": 2}))

    (level,) = result.levels
    assert level.limited > 0
    assert level.errors == 0
    assert level.attempts == level.requests + level.limited
    # The one user waits: nothing at all arrived before the server's time was over.
    for at, (moment, status) in enumerate(agent.log[:-1]):
        if status == 429:
            assert agent.log[at + 1][0] - moment >= 0.4


@pytest.mark.integration
def test_a_limit_longer_than_the_time_limit_is_one_failed_request_not_many(serve):
    agent = serve(limit_first=1000, retry_after="60")
    result = run_load(
        agent.url, _profile({"users": 1, "seconds": 1}, think_seconds=0.2, timeout_seconds=2)
    )

    assert {request.result for request in result.requests} <= {"limited", "ok"}
    assert any(request.result == "limited" for request in result.requests)
    assert {request.attempts for request in result.requests} == {1}


@pytest.mark.integration
def test_an_answer_that_comes_too_late_is_a_timeout_and_its_time_counts(serve):
    agent = serve(seconds=1.5)
    result = run_load(agent.url, _profile({"users": 2, "seconds": 1}, timeout_seconds=0.5))

    assert {request.result for request in result.requests} == {"timeout"}
    assert result.levels[0].error_rate == 1.0
    assert result.levels[0].p50_seconds >= 0.5


def test_a_server_that_is_not_there_is_one_clear_error():
    with pytest.raises(AgentRunError, match="does not answer"):
        run_load("http://127.0.0.1:9", _profile({"users": 1, "seconds": 1}))


def test_a_token_variable_that_is_not_set_is_an_error(monkeypatch):
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_TOKEN"):
        run_load(
            "http://127.0.0.1:9", _profile({"users": 1, "seconds": 1}),
            token_variable="NO_SUCH_TOKEN",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("apiVersion: mlflow-agents/v1\nname: x\nstages: []\nmessages: [hi]\n", "stages"),
        (
            "apiVersion: mlflow-agents/v1\nname: x\nstages: [{seconds: 1}]\nmessages: [hi]\n",
            "users",
        ),
        (
            "apiVersion: mlflow-agents/v1\nname: x\nmessages: [hi]\nstages: [{users: 1, rate: 2, seconds: 1}]\n",
            "either users",
        ),
        (
            "apiVersion: mlflow-agents/v1\nname: x\nmessages: [hi]\nstages: [{usres: 1, seconds: 1}]\n",
            "usres",
        ),
    ],
)
def test_a_profile_that_makes_no_sense_is_one_clear_error(tmp_path, text, problem):
    file = tmp_path / "profile.yaml"
    file.write_text(text)
    with pytest.raises(SuiteError, match=problem):
        load_profile(file)


@given(
    status=st.sampled_from([None, 200, 400, 429, 500, 503]),
    asked=st.none() | st.floats(0, 1000),
    attempt=st.integers(1, 30),
    attempts=st.integers(1, 20),
    left=st.floats(-10, 100),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_retry_never_comes_early_nor_late_nor_too_often(
    status, asked, attempt, attempts, left, draw
):
    wait = wait_before_retry(
        status, asked, attempt=attempt, attempts=attempts, left_seconds=left, draw=draw
    )
    if wait is not None:
        assert status == 429
        assert attempt < attempts
        assert (asked or 0.0) <= wait < left


@given(st.text() | st.none(), st.none() | st.integers(100, 599))
def test_no_answer_of_a_server_breaks_the_generator(text, status):
    assert read_answer(status, text, DIGEST)["result"] in {
        "limited", "connection", "client", "server", "invalid",
    }  # fmt: skip


def test_an_answer_of_other_content_is_no_answer():
    text = json.dumps({"output": [], "custom_outputs": {"agent_digest": "sha256:other"}})
    assert read_answer(200, text, DIGEST)["result"] == "invalid"
    assert read_answer(200, text, None)["result"] == "ok"
