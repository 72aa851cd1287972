"""The pipeline as a whole, on a handful of queries, with real DVC, MLflow and the gated registry."""

import configparser
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from mlflow_agent_plugin.errors import ConfigError, LeaseLostError, PipelineError
from mlflow_agent_plugin.lifecycle.fencing import HeldLease
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.leases import LeaseTable
from pipelines.register import register
from pipelines.retrain import (
    PROJECT,
    _why,
    child_environment,
    main,
    prepare_workspace,
    run_pipeline,
)
from pipelines.stage import read_json, read_params

SMALL = PROJECT / "pipelines" / "small_set"
INTENTS = ("lost_or_stolen_card", "exchange_rate", "atm_support")
NEW = "card_arrival"


def small(name, *intents):
    frame = pd.read_csv(SMALL / name)
    return frame[frame["category"].isin(intents)]


@pytest.fixture
def base(tmp_path):
    """Base data of three intents."""
    folder = tmp_path / "base"
    folder.mkdir()
    small("train.csv", *INTENTS).to_csv(folder / "train.csv", index=False)
    small("test.csv", *INTENTS).groupby("category").head(2).to_csv(folder / "test.csv", index=False)
    return folder


def feedback(path, label=NEW):
    rows = small("train.csv", NEW).rename(columns={"category": "label"})
    rows["label"] = label
    rows.to_csv(path, index=False)
    return path


def remarks(path, label=NEW, thumb="up"):
    """As `collect_remarks` gives them: a correction of each request, and one thumb."""
    texts = small("train.csv", NEW)["text"].tolist()
    rows = [
        {
            "remark_id": f"a-{number}",
            "trace_id": f"tr-{number:032x}",
            "agent": "support",
            "agent_digest": "sha256:aa",
            "text": text,
            "intent": "atm_support",
            "outcome": "answered",
            "kind": "intent" if number else "thumb",
            "value": label if number else thumb,
            "by": "rita",
            "said_at": f"2026-03-04 05:06:{number % 60:02d}+00:00",
            "comment": "",
        }
        for number, text in enumerate([texts[0], *texts])
    ]
    pd.DataFrame(rows, columns=list(REMARK_COLUMNS)).to_csv(path, index=False)
    return path


def test_a_workspace_holds_the_project_s_parameters_with_this_run_s_values(tmp_path, base):
    prepare_workspace(
        tmp_path / "w",
        feedback=feedback(tmp_path / "labels.csv"),
        agent="agents/support",
        ingest={"base": str(base), "exclude_intents": ["a", "b"]},
        request={"reason": 'it\'s `date` & "more"'},
    )
    params = read_params(tmp_path / "w" / "params.yaml")
    assert params.request.reason == 'it\'s `date` & "more"'
    assert params.ingest.exclude_intents == ["a", "b"]
    assert params.agent == str(PROJECT / "agents" / "support")
    assert params.ingest.feedback == "feedback.csv"
    config = configparser.ConfigParser()
    config.read(tmp_path / "w" / ".dvc" / "config")
    assert config["core"]["no_scm"] == "true"
    assert config["core"]["analytics"] == "false"


@pytest.mark.parametrize(
    "values",
    [
        {"agent": "agents/nobody"},
        {"feedback": Path("nowhere.csv")},
        {"ingest": {"base": "nowhere"}},
        {"evaluate": {"suites": ["nowhere.yaml"]}},
        {"evaluate": {"workers": 0}},
        {"ingest": {"holdout_share": 2}},
        {"project": Path("nowhere")},
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_runs(tmp_path, values):
    with pytest.raises(ConfigError):
        prepare_workspace(tmp_path / "w", **values)
    assert not (tmp_path / "w" / "params.yaml").exists()


def test_the_project_s_own_parameters_fit_and_no_user_value_reaches_a_shell():
    params = read_params(PROJECT / "params.yaml")
    assert params.register_.model_name == "support"
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [
        "ingest", "validate", "train", "package", "evaluate", "register", "request",
    ]  # fmt: skip
    for stage in stages.values():
        for part in stage["cmd"].split("${")[1:]:
            assert part.partition("}")[0] in ("build", "train.seed")


def test_dvc_can_work_at_the_top_of_a_checkout():
    """It refuses an ignored lock file, and outputs it is told not to look at."""
    lines = {line.strip("/ ") for line in (PROJECT / ".gitignore").read_text().splitlines()}
    assert "dvc.lock" not in lines
    ignored = {line.strip("/ ") for line in (PROJECT / ".dvcignore").read_text().splitlines()}
    assert read_params(PROJECT / "params.yaml").build.split("/")[0] not in ignored


def test_metrics_and_plots_of_an_experiment_can_be_found_again():
    """Git ignores the build folder: only what is in DVC's cache is there for `metrics diff`."""
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    kept = [entry for stage in stages.values() for kind in ("metrics", "plots")
            for entry in stage.get(kind, [])]  # fmt: skip
    assert len(kept) == 3
    options = [entry for entry in kept if isinstance(entry, dict)]
    assert not any(settings.get("cache") is False for each in options for settings in each.values())


def test_stages_get_absolute_servers_and_do_not_write_into_the_pipeline_s_run(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///m.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    environment = child_environment(PROJECT)
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/m.db"
    assert "MLFLOW_RUN_ID" not in environment
    assert environment["MLFLOW_AGENTS_PIPELINE_RUN"] == "abc"
    assert environment["DVC_NO_ANALYTICS"] == "1"


def test_the_stage_s_own_error_is_what_is_reported():
    lines = [
        "Running stage 'validate':",
        "> python -m pipelines.validate",
        "error: requests.csv: 2 of 11 expectations failed",
        "  one",
        "ERROR: failed to reproduce 'validate': failed to run",
    ]
    assert _why(lines) == ("validate", "requests.csv: 2 of 11 expectations failed\n  one")
    assert _why(["ERROR: Unable to acquire lock"])[1].startswith("another DVC process")
    stage, problem = _why(["Traceback", "KeyError: 'x'", "ERROR: failed to reproduce 'train': x"])
    assert stage == "train"
    assert "KeyError" in problem


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_pipeline_that_lost_its_lease_ends_the_stage_it_is_at(tmp_path):
    """The stage says that it runs, and then never ends by itself."""
    workspace, beat = tmp_path / "w", tmp_path / "w" / "beat"
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "pipelines", project / "pipelines")
    shutil.copytree(PROJECT / "agents" / "support", project / "agents" / "support")
    shutil.copy(PROJECT / "params.yaml", project)
    code = (
        "import os, pathlib, threading; "
        "pathlib.Path('beat').write_text(str(os.getpid())); threading.Event().wait()"
    )
    stages = {"train": {"cmd": f'"{sys.executable}" -c "{code}"', "outs": ["planner"]}}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    prepare_workspace(workspace, project=project)
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        table = LeaseTable(store)
        table.acquire("x", "me", 0.5)
        lease = HeldLease(table, "x", "me", 0.5)

        def lose():
            while not beat.is_file() or not beat.read_text():
                pass
            table.release("x", "me")

        loser = threading.Thread(target=lose)
        loser.start()
        with lease.kept(), pytest.raises(LeaseLostError):
            run_pipeline(workspace, project=project, lease=lease)
        loser.join()
    deadline = time.monotonic() + 60
    while is_running(int(beat.read_text())):
        assert time.monotonic() < deadline
    assert read_json(workspace / "result.json")["problem"].startswith("the lease x went to")


@pytest.mark.integration
def test_bad_labels_stop_it_and_good_ones_lead_to_one_version_that_waits_for_approval(
    tmp_path, base, monkeypatch
):
    import mlflow

    from mlflow_agent_plugin.observability import load_reference
    from mlflow_agent_plugin.registry import gate_report

    database = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+{database}")
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "gary")
    mlflow.set_tracking_uri(database)
    mlflow.set_registry_uri(f"agents+{database}")
    client = mlflow.MlflowClient()
    workspace = tmp_path / "w"

    def run(labels, thumb="up", **evaluation):
        prepare_workspace(
            workspace,
            feedback=remarks(tmp_path / "said.csv", labels, thumb),
            ingest={"base": str(base)},
            evaluate={"workers": 1, **evaluation},
            request={"reason": "drift"},
        )
        return run_pipeline(workspace, reason="drift")

    # As MLflow starts it: the command, with a run of its own.
    pipeline_run = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", pipeline_run)
    bad = remarks(tmp_path / "said.csv", "no_such_intent", thumb="sideways")
    command = ["--workspace", workspace, "--feedback", bad, "--base", base, "--workers", 1]
    done = CliRunner().invoke(main, [str(part) for part in command])
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert done.exit_code == 2
    assert "stage validate" in done.stderr
    assert "expect_column_values_to_be_in_set(category)" in done.stderr
    assert "expect_column_values_to_be_in_set(value where kind == 'thumb')" in done.stderr
    assert not (workspace / "build" / "planner").exists()
    assert read_json(workspace / "result.json")["ok"] is False
    assert client.search_registered_models() == []
    assert client.search_logged_models([e.experiment_id for e in client.search_experiments()]) == []
    tags = client.get_run(pipeline_run).data.tags
    assert tags["agent.validation"] == "failed"
    assert tags["agent.dataset.md5"].endswith(".dir")
    assert f"/runs/{pipeline_run}/artifacts/validation/index.html" in tags["mlflow.note.content"]
    kept = {item.path for item in client.list_artifacts(pipeline_run, "validation")}
    lists = {"validation/failed_rows.csv", "validation/failed_remarks.csv"}
    assert lists | {"validation/index.html"} <= kept
    assert "failed_remarks.csv" in tags["mlflow.note.content"]
    assert len(tags["agent.remarks.md5"]) == 32

    # A stage that fails late leaves the registry untouched, and the next run goes on there.
    with pytest.raises(PipelineError, match="stage evaluate"):
        run(NEW, suite_builder="nowhere")
    assert client.search_registered_models() == []
    trained = (workspace / "build" / "train.json").stat().st_mtime_ns

    result = run(NEW)
    assert (workspace / "build" / "train.json").stat().st_mtime_ns == trained
    assert result["ok"]
    assert result["request"]["version"] == 1
    assert result["train"]["n_classes"] == 4
    assert "support-new-traffic" in result["evaluation"]["suites"]
    report = gate_report("support", 1, to="Production").to_dict()
    assert report["passed"] is False
    by_kind = {item["kind"]: item["status"] for item in report["results"]}
    assert by_kind["content"] == by_kind["policy_tests"] == by_kind["safety"] == "met"
    assert by_kind["approvals"] == "unmet"
    assert len(load_reference("models:/support/1")) > 0

    # Another thumb is another table, which is checked, and no reason to train again.
    again = run(NEW, thumb="down")
    said = (workspace / "build" / "remarks.csv").read_text()
    assert ",thumb,down,rita," in said
    assert (workspace / "build" / "train.json").stat().st_mtime_ns == trained
    assert again["request"]["version"] == 1
    assert len(client.search_model_versions("name = 'support'")) == 1

    # A stage that is repeated finds the version it made of this content.
    monkeypatch.chdir(workspace)
    assert register(read_params()) == "support version 1"
    assert len(client.search_model_versions("name = 'support'")) == 1
