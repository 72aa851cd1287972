"""The lamp agent, scenarios for it, and a player."""

from __future__ import annotations

import pytest
from helpers.lamp_agent import write_lamps


@pytest.fixture
def lamps_dir(tmp_path):
    """The folder of the lamp agent."""
    return write_lamps(tmp_path / "lamps")


@pytest.fixture
def lamps(lamps_dir):
    """The lamp agent, loaded."""
    from mlflow_agent_plugin.package import load_bundle

    return load_bundle(lamps_dir)


@pytest.fixture
def scenario():
    """Return a function that makes a scenario; the expectation defaults to an answer."""
    from mlflow_agent_plugin.development import Scenario

    def make(text, case_id="case", expect=None, **more):
        turns = [{"user": t} for t in ([text] if isinstance(text, str) else text)]
        expect = expect or {"outcomes": ["answered"]}
        return Scenario.model_validate({"id": case_id, "turns": turns, "expect": expect, **more})

    return make


@pytest.fixture
def play(lamps, tmp_path):
    """Return a function that plays one scenario and gives the `CaseRun`."""
    from mlflow_agent_plugin.development.case import CasePlayer
    from mlflow_agent_plugin.development.suite import DEFAULT_NOW
    from mlflow_agent_plugin.store import Store

    with Store.open(f"sqlite:///{tmp_path}/evaluation.db") as store:
        player = CasePlayer(lamps, store=store, suite="tiny", now=DEFAULT_NOW)
        yield player.play
        player.close()
