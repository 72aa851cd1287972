"""Training from the command line."""

import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner

from mlflow_agent_plugin.foundation import TrainedPlanner
from pipelines import data
from pipelines.train import main, planner_dir

ROWS = [
    ("open the door", "door"),
    ("the door please", "door"),
    ("a door is shut", "door"),
    ("close the window", "window"),
    ("the window is open", "window"),
    ("clean my window", "window"),
    ("ring the bell", "bell"),
    ("the bell rings", "bell"),
    ("who rang the bell", "bell"),
]
TEST = [("Open the DOOR!", "door"), ("my window", "window"), ("a bell", "bell")]


def table(path, rows):
    pd.DataFrame(rows, columns=["text", "category"]).to_csv(path, index=False)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    table(folder / "train.csv", ROWS)
    table(folder / "test.csv", TEST)
    return folder


def run(*arguments, fails=None):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if fails is not None:
        assert result.exit_code == 2, result.output
        assert fails in result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return None
    assert result.exit_code == 0, result.output
    return result.output


def test_it_trains_writes_and_reports(folder, tmp_path):
    report = json.loads(run("--data", folder, "--out", tmp_path / "planner", "--json"))
    planner = TrainedPlanner.load(tmp_path / "planner")
    assert planner.classes == ("bell", "door", "window")
    assert report["n_train"] == planner.card.n_train == 8
    assert report["n_test"] == 3
    assert 0 <= report["accuracy_low"] <= report["accuracy"] <= report["accuracy_high"] <= 1
    assert planner.card.accuracy["test"].n == 3
    assert report["cpu_seconds"] >= 0


def test_no_text_of_the_test_split_is_trained_on(folder, tmp_path):
    report = json.loads(run("--data", folder, "--out", tmp_path / "planner", "--json"))
    assert report["removed_test_rows"] == 1


def test_the_report_is_a_table_for_people(folder, tmp_path):
    output = run("--data", folder, "--out", tmp_path / "planner")
    assert "accuracy, test (3)" in output
    assert "training examples" in output


def test_the_same_data_give_the_same_files(folder, tmp_path):
    for name in ("a", "b"):
        run("--data", folder, "--out", tmp_path / name, "--json")
    read = [TrainedPlanner.load(tmp_path / name).to_files() for name in ("a", "b")]
    assert read[0] == read[1]
    assert str(tmp_path).encode() not in b"".join(read[0].values())


def test_intents_can_be_held_back_and_examples_added(folder, tmp_path):
    extra = table(
        tmp_path / "extra.csv", [("sing a song", "out_of_scope"), ("hum", "out_of_scope")]
    )
    out = tmp_path / "planner"
    arguments = ["--exclude-intents", "bell, door", "--extra", extra, "--out", out, "--json"]
    report = json.loads(run("--data", folder, *arguments))
    planner = TrainedPlanner.load(out)
    assert planner.classes == ("out_of_scope", "window")
    assert report["n_test"] == 1  # the test rows of held-back intents do not count
    assert planner.card.data["excluded_intents"] == ["bell", "door"]
    assert planner.card.data["extra"] == [{"name": "extra.csv", "rows": 2}]


def test_an_unknown_intent_to_exclude_is_an_error_with_a_suggestion(folder, tmp_path):
    arguments = ["--out", tmp_path / "planner", "--exclude-intents", "windo"]
    run("--data", folder, *arguments, fails="no intent 'windo'. Did you mean window?")


def test_nothing_is_written_when_something_is_wrong(folder, tmp_path):
    out = tmp_path / "planner"
    run("--data", folder, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run("--data", folder, "--out", out, "--exclude-intents", "bell,door", fails="at least two")
    run("--data", folder / "no.csv", "--out", out, fails="no.csv: cannot be read")
    run("--data", folder, "--out", out, "--extra", folder / "no.csv", fails="cannot be read")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_without_agent_and_out_there_is_nothing_to_write_to():
    run(fails="give --agent or --out")


def test_a_missing_agent_is_an_error(tmp_path):
    run("--agent", tmp_path / "nowhere", fails="agent.yaml")


def test_an_agent_without_a_local_planner_is_an_error(tmp_path):
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "agent.yaml").write_text(
        "apiVersion: mlflow-agents/v1\nname: a\ndescription: a\nowner: a\n"
        "workflow: {goal: a}\nmodel: {provider: openai, name: m}\n"
    )
    run("--agent", agent, fails="no local planner")


def test_the_support_agents_planner_goes_into_its_bundle():
    from pathlib import Path

    agent = Path(__file__).parents[2] / "agents" / "support"
    assert planner_dir(agent) == agent / "model" / "planner"


def test_where_no_public_data_are_the_small_set_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_AGENTS_DOWNLOAD", "false")
    report = json.loads(run("--out", tmp_path / "planner", "--json"))
    assert "small set written for this project" in report["data"]
    assert report["n_classes"] == 77
    assert report["accuracy"] > 0.6


@pytest.mark.data
def test_banking77_is_understood_at_ninety_percent(tmp_path):
    source = data.find_banking77(download=False)
    if source.name != "banking77":
        pytest.skip(source.statement)
    report = json.loads(run("--out", tmp_path / "planner", "--json"))
    assert report["n_test"] == 3080
    assert report["accuracy"] >= 0.90
    shutil.rmtree(tmp_path / "planner")
