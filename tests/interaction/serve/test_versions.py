"""A version that was replaced goes only when nobody can need it any more."""

from __future__ import annotations

import pytest
from helpers.shelf_agent import say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.errors import StoppedError
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.versions import LoadedVersion
from mlflow_agent_plugin.package import load_bundle


@pytest.fixture
def version(tmp_path):
    def make(text):
        root = write_bundle(tmp_path / text, [say(text)], folder=tmp_path / "things")
        return LoadedVersion(AgentRuntime.open(load_bundle(root), tracing=False))

    return make


def ask(taken):
    return taken.invoke().text


def test_a_turn_given_to_a_version_just_before_it_was_replaced_is_still_answered(version):
    agents = ServedAgents({"shelf": version("one")}, Settings.from_env())
    before = agents.pick("shelf")
    agents.put("shelf", "", version("two"), deployed=False)
    request = AgentRequest("hi", None, Actor("ann", verified=True))
    with agents.take(before, request) as taken:
        agents.sweep()
        agents.sweep()  # in use: not closed
        assert ask(taken) == "one"
    with agents.take(agents.pick("shelf"), request) as taken:
        assert ask(taken) == "two"
    agents.sweep()
    with pytest.raises(StoppedError, match="no longer served"), before.stable.use():
        pass
    agents.close()


def test_what_left_a_moment_ago_is_not_closed_by_the_first_sweep(version):
    agents = ServedAgents({"shelf": version("one")}, Settings.from_env())
    before = agents.pick("shelf").stable
    agents.drop("shelf")
    agents.sweep()
    with before.use() as runtime:
        assert runtime.bundle.name == "shelf"
    agents.sweep()
    with pytest.raises(StoppedError), before.use():
        pass
    agents.close()


def test_a_front_end_without_agents_is_not_ready_when_the_store_is_away(monkeypatch):
    agents = ServedAgents({}, Settings.from_env())
    agents.check()

    class Away:
        def read(self):
            raise OSError("gone")

    agents.store = Away()
    with pytest.raises(OSError, match="gone"):
        agents.check()
