"""Environment drift of a registered version: its own bundle is what the world is compared with."""

import json

import mlflow
import pytest
import yaml
from helpers.lamp_agent import write_lamps

from mlflow_agent_plugin.core import log_agent
from mlflow_agent_plugin.lifecycle import look_at_environment
from mlflow_agent_plugin.lifecycle.environment import read_pins
from mlflow_agent_plugin.lifecycle.watching import gather_signals
from mlflow_agent_plugin.observability.environment import load_sources


@pytest.fixture
def registered(tmp_path):
    """Version 1 of an agent with a knowledge base, and the folder its knowledge is kept in."""
    bundle = write_lamps(tmp_path / "lamps")
    manifest = (bundle / "agent.yaml").read_text() + "\nretrieval: {path: knowledge}\n"
    (bundle / "agent.yaml").write_text(manifest)
    wiki = tmp_path / "wiki"
    for folder in (bundle / "knowledge", wiki):
        folder.mkdir()
        (folder / "lamps.md").write_text("# Lamps\n\nLamps give light.\n")
    log_agent(bundle, name="lamps", registered_model_name="lamps")
    return wiki


def sources(tmp_path):
    path = tmp_path / "environment.yaml"
    source = {"kind": "knowledge", "location": "wiki"}
    path.write_text(yaml.safe_dump({"apiVersion": "mlflow-agents/v1", "sources": [source]}))
    return path


def runs():
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name("drift")
    return [] if found is None else client.search_runs([found.experiment_id])


def test_a_changed_knowledge_base_is_a_signal_with_a_run_linked_to_the_version(
    registered, tmp_path
):
    outside = load_sources(sources(tmp_path))
    assert look_at_environment("lamps", "1", outside).changed is False
    assert look_at_environment("lamps", "1", outside).changed is False
    assert len(runs()) == 1  # what says the same again is not kept again
    (registered / "lamps.md").write_text("# Lamps\n\nLamps are forbidden.\n")
    signals = gather_signals(
        "lamps", "1", table=tmp_path / "t", windows=1, drift=False, environment=outside
    )
    assert signals.environment.changed is True
    newest = max(runs(), key=lambda run: run.info.start_time)
    assert newest.data.tags["agent.environment"] == "changed"
    assert "1 of 1 files changed: lamps.md" in newest.data.tags["mlflow.note.content"]
    version = mlflow.MlflowClient().get_model_version("lamps", "1")
    assert version.tags["monitoring.environment"] == newest.info.run_id
    listed = mlflow.MlflowClient().list_artifacts(newest.info.run_id, "environment")
    assert [item.path for item in listed] == [
        "environment/environment.html",
        "environment/environment.json",
    ]


def test_pins_are_read_from_a_folder_as_from_the_registry(registered, tmp_path):
    pinned = read_pins("models:/lamps/1")
    assert pinned == read_pins(str(tmp_path / "lamps"))
    assert list(pinned.knowledge) == ["lamps.md"]
    assert "smash" in pinned.contracts


def test_the_command_says_what_changed_and_exits_with_1(registered, tmp_path):
    from click.testing import CliRunner

    from mlflow_agent_plugin.interaction.cli import main

    command = ["environment", "models:/lamps/1", "--sources", str(sources(tmp_path)), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    (registered / "more.md").write_text("# More\n\nMore light.\n")
    done = CliRunner().invoke(main, [*command, "--log", "lamps/1"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["changed"] is True
    assert found["parts"][0]["reasons"] == ["1 files are new: more.md"]
    assert found["run_id"] == runs()[0].info.run_id
    assert "smash" in found["unwatched"]
