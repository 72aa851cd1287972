"""Trying a version in a process of its own, which gets nothing of the server's."""

from __future__ import annotations

import json

import pytest

from mlflow_agent_plugin.core.flavor import save_agent
from mlflow_agent_plugin.errors import AgentRunError, QuotaExceededError, RequestError
from mlflow_agent_plugin.interaction.templates import write_agent
from mlflow_agent_plugin.interaction.trial import Said, TrialDesk, desk

pytestmark = pytest.mark.integration

PROBE = '''

def find_order(context, **arguments):
    """Write down what this process was given."""
    import json, os, pathlib
    pathlib.Path(os.environ["HOME"], "given.json").write_text(json.dumps(sorted(os.environ)))
    return _find_order(context, **arguments)
'''


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Give the model folder of an agent whose tool tells what is in its environment."""
    place = tmp_path_factory.mktemp("tried")
    folder, _ = write_agent("desk", place)
    tools = folder / "tools.py"
    tools.write_text(tools.read_text().replace("def find_order", "def _find_order") + PROBE)
    save_agent(folder, place / "model")
    return place / "model"


@pytest.fixture
def trials(tmp_path):
    base = tmp_path / "t"
    base.mkdir()
    made = TrialDesk(variables=("A_PROVIDERS_KEY",), base=base)
    yield made
    for folder in base.iterdir():
        desk._kill(folder)


def begin(trials, content):
    return trials.begin(content, user="ann", tenant="a", model="desk", version=1)


def test_a_version_on_trial_answers_and_gets_no_secret_of_the_server(trials, content, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_ORDERS", "hunter2")
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "hunter2")
    monkeypatch.setenv("A_PROVIDERS_KEY", "for-the-model")
    folder = begin(trials, content)
    with pytest.raises(RequestError, match="empty"):
        trials.say(folder, Said(text="  "))
    turn = trials.say(folder, Said(text="Where is A-1?", user="kim", roles=("customer",)))
    assert turn.problem is None, turn.problem
    (call,) = turn.calls
    assert (call.tool, call.decision, call.status) == ("find_order", "allow", "executed")
    given = set(json.loads((folder.path / "given.json").read_text()))
    assert "A_PROVIDERS_KEY" in given
    assert not given & {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_AGENTS_CREDENTIAL_ORDERS",
                        "MLFLOW_FLASK_SERVER_SECRET_KEY"}  # fmt: skip
    steps = [(step.kind, step.depth) for step in turn.steps]
    assert ("AGENT", 0) in steps
    assert ("TOOL", 1) in steps
    assert folder.turns() == [turn]

    trials.end(folder)
    assert trials.running() == 0
    assert not folder.path.exists()


def test_a_version_that_does_not_load_is_said_so_and_its_process_is_gone(trials, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "MLmodel").write_text("flavors: {}")
    folder = begin(trials, broken)
    with pytest.raises(AgentRunError, match=r"does not start: .*not an agent"):
        trials.say(folder, Said(text="hello"))
    assert trials.running() == 0


def test_no_more_versions_run_at_once_than_the_desk_allows(trials, content, monkeypatch):
    monkeypatch.setattr(desk, "MAX_TRIALS", 1)
    begin(trials, content)
    with pytest.raises(QuotaExceededError, match="on trial"):
        begin(trials, content)
