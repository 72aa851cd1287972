"""Two front ends as processes of their own, one registry, one store: a rollout is one for both."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import requests
from helpers.agents_server import free_port
from helpers.registry_world import World
from helpers.rollout_world import GATE, failing, put, standing
from helpers.shelf_agent import say, write_bundle

pytestmark = pytest.mark.integration

FOLLOW_SECONDS = 0.3


class Process:
    """One `mlflow-agents serve`."""

    def __init__(self, folder, keys, number):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / f"front-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "serve",
                 "shelf=models:/shelf@champion", "--keys", str(keys), "--follow-seconds",
                 str(FOLLOW_SECONDS), "--port", self.url.rpartition(":")[2]],
                stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{self.url}/ready", timeout=2).ok:
                    return
            except requests.RequestException:
                assert self.process.poll() is None, self.log.read_text("utf-8", "replace")
                assert time.monotonic() < deadline, self.log.read_text("utf-8", "replace")
            time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def says(text):
    def edit(root):
        write_bundle(root, [say(text)] * 9, folder=root.parents[1] / "things")
        (root / "gate.yaml").write_text(GATE)

    return edit


def until(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture
def place(tmp_path, monkeypatch, cli):
    """Give the registry, an API key's headers, and two front ends that answer."""
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_AGENTS_TRACING", "false")
    world = World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
    put(world, "one", "@champion", edit=says("one"))
    keys = tmp_path / "keys.yaml"
    key = cli("api-key", "make", "ann@home", "--file", keys, "--json").json["key"]
    fronts = [Process(tmp_path, keys, number) for number in (1, 2)]
    try:
        for front in fronts:
            front.wait()
        yield world, fronts, {"Authorization": f"Bearer {key}"}
    finally:
        for front in fronts:
            front.stop()


def test_two_front_ends_split_count_stop_promote_and_roll_back_as_one(place, cli):
    world, fronts, headers = place

    def ask(front, session):
        return requests.post(
            f"{front.url}/v1/responses", headers=headers, timeout=60,
            json={"input": "hi", "custom_inputs": {"session_id": session}},
        )  # fmt: skip

    def version(front, session):
        return ask(front, session).headers.get("X-Agent-Version")

    def rollout(*more):
        return cli(
            "rollout", "start", "shelf", "--share", "0.5", "--success-margin", "0.4",
            "--error-margin", "0.4", "--min-sessions", "5", *more, "--json",
        ).json["rollout_id"]  # fmt: skip

    def loaded(prefix, wanted):
        """Both front ends have the candidate: each gives it some new conversation."""
        for index, front in enumerate(fronts):
            until(
                lambda f=front, i=index: _is(ask(f, f"{prefix}{i}-{time.monotonic_ns()}"), wanted),
                "split",
            )

    def _is(answer, wanted):
        return (
            answer.status_code == 500
            if wanted is None
            else (answer.headers.get("X-Agent-Version") == wanted)
        )

    # A candidate that fails: whichever process sees the last straw, both send everything back.
    put(world, "bad", "@canary", edit=failing)
    first = rollout()
    loaded("warm", None)
    for number in range(120):
        ask(fronts[number % 2], f"a{number}")
        if cli("rollout", "show", first, "--json", code=None).json["state"] == "stopped":
            break
    assert cli("rollout", "show", first, "--json", code=1).json["state"] == "stopped"
    until(lambda: standing(world, "@canary") is None, "the slot was not emptied")
    for front in fronts:
        until(lambda f=front: version(f, f"b{time.monotonic_ns()}") == "1", "still split")
        answers = [ask(front, f"c{number}") for number in range(12)]
        assert {(a.status_code, a.headers["X-Agent-Version"]) for a in answers} == {(200, "1")}

    # A candidate that does as well: a conversation has the same version in both processes.
    put(world, "two", "@canary", edit=says("two"))
    second = rollout()
    loaded("warm2", "3")
    seen = set()
    for number in range(200):
        session = f"d{number}"
        versions = {version(front, session) for front in fronts}
        assert len(versions) == 1, session
        seen |= versions
        if cli("rollout", "show", second, "--json").json["state"] != "running":
            break
    assert seen == {"1", "3"}
    until(lambda: standing(world, "@champion") == 3, "not promoted")
    for front in fronts:
        until(lambda f=front: version(f, f"e{time.monotonic_ns()}") == "3", "not followed")
    assert cli("rollout", "show", second, "--json").json["state"] == "promoted"

    # Back to the last good version, by one command; nobody restarts anything.
    cli("rollback", "shelf", "--to", "@champion", "--reason", "customers complain", "--as", "rita")
    for front in fronts:
        until(lambda f=front: version(f, f"f{time.monotonic_ns()}") == "1", "not rolled back")

    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditLog

    with Store.open() as store:
        log = AuditLog(store)
        kinds = [event.kind for event in log.events() if event.kind.startswith("rollout")]
    assert kinds.count("rollout_started") == 2
    assert kinds.count("rollout_decided") == 3  # stopped; ready, promoted
