"""`mlflow deployments … -t agents` against a running front end: MLflow's own command and client."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
import uvicorn
from click.testing import CliRunner
from helpers.registry_world import World
from helpers.rollout_world import put, standing
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException
from starlette.testclient import TestClient

from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings

pytestmark = pytest.mark.integration


class Place:
    """A gated registry, a front end that serves deployments, keys of two people."""

    def __init__(self, tmp_path):
        self.world = World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
        self.folder = tmp_path
        self.keys, entries = {}, []
        for actor in ("olga@home:operator", "ann@home"):
            key, digest = make_key()
            self.keys[actor.partition("@")[0]] = key
            entries.append({"sha256": digest, "actor": actor})
        (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
        settings = ServeSettings(
            agents={}, deployments=True, keys=str(tmp_path / "keys.yaml"), follow_seconds=0.3
        )
        config = uvicorn.Config(make_app(settings), port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def client(self, who="olga"):
        os.environ["MLFLOW_AGENTS_API_KEY"] = self.keys[who]
        try:
            return get_deploy_client(f"agents://127.0.0.1:{self.port}")
        finally:
            del os.environ["MLFLOW_AGENTS_API_KEY"]

    def mlflow(self, *words):
        """Run MLflow's own command in this process; return what it printed."""
        env = {"MLFLOW_AGENTS_API_KEY": self.keys["olga"],
               "MLFLOW_AGENTS_FRONT_END": f"http://127.0.0.1:{self.port}"}  # fmt: skip
        done = CliRunner().invoke(commands, words, env=env)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def close(self):
        self._server.should_exit = True
        self._thread.join(60)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_AGENTS_TRACING", "false")
    made = Place(tmp_path)
    yield made
    made.close()


def said(answer):
    return answer["output"][0]["content"][0]["text"]


def test_mlflows_own_command_deploys_asks_updates_lists_and_deletes(place):
    put(place.world, "one", "@champion")
    second = put(place.world, "two", "@canary")
    on = ("-t", "agents")
    created = place.mlflow("create", *on, "--name", "shop", "-m", "models:/shelf@champion")
    assert "agent deployment shop is created" in created
    (place.folder / "ask.json").write_text('[{"input": "hi"}]')
    asked = ("predict", *on, "--name", "shop", "-I", str(place.folder / "ask.json"))
    assert said(json.loads(place.mlflow(*asked))["predictions"][0]) == "one"
    place.mlflow("update", *on, "--name", "shop", "-m", f"models:/shelf/{second}")
    assert said(json.loads(place.mlflow(*asked))["predictions"][0]) == "two"
    assert "shop" in place.mlflow("list", *on)
    assert f"models:/shelf/{second}" in place.mlflow("get", *on, "--name", "shop")
    place.mlflow("delete", *on, "--name", "shop")
    assert "shop" not in place.mlflow("list", *on)
    assert "MLFLOW_AGENTS_FRONT_END" in place.mlflow("help", *on)


def test_what_cannot_be_done_is_one_error_with_its_code(place, tmp_path):
    client = place.client()
    put(place.world, "one", "@champion")
    for call, code in (
        (lambda: client.get_deployment("nobody"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: client.update_deployment("nobody", "models:/shelf/1"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: client.create_deployment("x", "models:/nobody/1"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: client.create_deployment("../x", "models:/shelf/1"), "INVALID_PARAMETER_VALUE"),
        (lambda: client.create_deployment("x", str(tmp_path)), "INVALID_PARAMETER_VALUE"),
        (lambda: client.create_deployment("x", "models:/shelf/1", "onnx"), "INVALID_PARAMETER_VALUE"),
        (lambda: client.predict("nobody", {"input": "hi"}), "INVALID_PARAMETER_VALUE"),
        (lambda: client.predict("x", []), "INVALID_PARAMETER_VALUE"),
        (lambda: client.list_deployments("endpoint"), "INVALID_PARAMETER_VALUE"),
        (lambda: place.client("ann").list_deployments(), "PERMISSION_DENIED"),
        (lambda: get_deploy_client(f"agents://127.0.0.1:{place.port}").list_deployments(),
         "UNAUTHENTICATED"),
        (lambda: get_deploy_client("agents://127.0.0.1:9").list_deployments(),
         "TEMPORARILY_UNAVAILABLE"),
        (lambda: get_deploy_client("agents:nonsense"), "INVALID_PARAMETER_VALUE"),
    ):  # fmt: skip
        with pytest.raises(MlflowException) as raised:
            call()
        assert raised.value.error_code == code
        assert "\n" not in str(raised.value)
    client.delete_deployment("nobody")  # as MLflow asks: no error
    client.create_deployment("x", "models:/shelf/1")
    with pytest.raises(MlflowException, match="of that name"):
        client.create_deployment("x", "models:/shelf/1")
    with pytest.raises(MlflowException, match="does not move"):
        client.update_deployment("x", config={"rollout": "canary"})


def test_a_rollout_is_an_update_of_the_deployment(place):
    put(place.world, "one", "@champion")
    put(place.world, "two", "@canary")
    client = place.client()
    client.create_deployment("shop", "models:/shelf@champion")
    config = {"rollout": "canary", "share": "1", "success_margin": "0.4"}
    begun = client.update_deployment("shop", config=config)["rollout"]
    assert (begun["mode"], begun["candidate_version"], begun["share"]) == ("canary", 2, 1.0)
    deadline = time.monotonic() + 60
    while said(client.predict("shop", {"input": "hi"})["predictions"][0]) != "two":
        assert time.monotonic() < deadline
    stopped = client.update_deployment("shop", config={"rollout": "stop", "reason": "enough"})
    assert stopped["rollout"]["reason"] == "enough"
    assert said(client.predict("shop", {"input": "hi"})["predictions"][0]) == "one"
    while standing(place.world, "@canary") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_answers_stream_and_a_deployment_is_followed_by_every_front_end(place, tmp_path):
    put(place.world, "one", "@champion")
    client = place.client()
    client.create_deployment("shop", "models:/shelf@champion")
    events = list(client.predict_stream("shop", {"input": "hi"}))
    assert events[0]["type"] == "response.created"
    assert said(events[-1]["response"]) == "one"

    settings = ServeSettings(
        agents={}, deployments=True, keys=str(tmp_path / "keys.yaml"), follow_seconds=0
    )
    with TestClient(make_app(settings)) as second:
        headers = {"Authorization": f"Bearer {place.keys['ann']}"}
        answer = second.post("/v1/responses", json={"input": "hi"}, headers=headers)
        assert said(answer.json()) == "one"
