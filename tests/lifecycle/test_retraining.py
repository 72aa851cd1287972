"""Starting the pipeline: with real MLflow project runs of a project whose pipeline is one script."""

import json
import sys
import threading
from datetime import datetime, timedelta, timezone

import mlflow
import pandas as pd
import pytest

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ConfigError, PipelineError
from mlflow_agent_plugin.lifecycle import (
    Signals,
    TriggerPolicy,
    model_lease,
    retrain,
    run_trigger,
)
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import AuditKind, AuditLog

PARAMETERS = (
    "workspace", "model_name", "to", "feedback", "suites", "exclude_intents", "experiment", "reason",
)  # fmt: skip

SCRIPT = """
import json, os, pathlib, sys, time
import mlflow
values = json.loads(json.dumps(dict(pair.split("=", 1) for pair in sys.argv[1:])))
folder = pathlib.Path(values["workspace"])
mlflow.MlflowClient().set_tag(os.environ["MLFLOW_RUN_ID"], "agent.retrain", values["model_name"])
values["tracking"] = os.environ["MLFLOW_TRACKING_URI"]
values["registry"] = os.environ["MLFLOW_REGISTRY_URI"]
with (folder / "starts.jsonl").open("a") as file:
    file.write(json.dumps(values) + "\\n")
while (folder / "hold").exists():
    time.sleep(0.02)
ok = not (folder / "fail").exists()
result = {"ok": ok, "stage": "validate", "problem": "3 expectations failed"}
if ok:
    result |= {"request": {"version": 7, "comment": "better"}, "evaluation": {"suites": {}}}
(folder / "result.json").write_text(json.dumps(result))
sys.exit(0 if ok else 2)
"""


@pytest.fixture
def toy(tmp_path):
    """A project whose retrain entry point notes that it was started."""
    root = tmp_path / "project"
    (root / "pipelines").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "run.py").write_text(SCRIPT)
    declared = "".join(f"      {name}: {{type: string, default: ''}}\n" for name in PARAMETERS)
    passed = " ".join(f"{name}={{{name}}}" for name in PARAMETERS)
    (root / "MLproject").write_text(
        f"name: toy\nentry_points:\n  retrain:\n    parameters:\n{declared}"
        f"    command: {json.dumps(f'python run.py {passed}')}\n"
    )
    (tmp_path / "w").mkdir()
    return root


def starts(tmp_path):
    path = tmp_path / "w" / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def go(toy, tmp_path, reason="because", **options):
    return retrain(reason, project=toy, workspace=tmp_path / "w", actor=Actor("rita"), **options)


def test_a_run_gets_its_values_unharmed_and_absolute_servers(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///mlflow.db")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    reason = 'it\'s $HOME; `id` & "more"'
    labels = pd.DataFrame({"text": ["a"], "label": ["b"]})
    done = go(toy, tmp_path, reason, labels=labels, exclude_intents=["x", "y"], to="@champion")
    (seen,) = starts(tmp_path)
    assert seen["reason"] == reason
    assert seen["exclude_intents"] == "x,y"
    assert seen["to"] == "@champion"
    assert seen["tracking"] == seen["registry"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert pd.read_csv(seen["feedback"]).to_numpy().tolist() == [["a", "b"]]
    assert (done.version, done.to) == (7, "@champion")
    assert done.summary() == "support version 7 waits for @champion: better"
    assert mlflow.get_run(done.run_id).info.status == "FINISHED"


def test_the_start_is_on_record_before_anything_runs(toy, tmp_path):
    (tmp_path / "w" / "fail").touch()
    with pytest.raises(PipelineError, match="stage validate: 3 expectations failed"):
        go(toy, tmp_path)
    with Store.open() as store:
        (event,) = AuditLog(store).events(kind=AuditKind.RETRAIN_STARTED)
    assert event.actor == "rita"


def test_a_folder_that_is_no_project_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no MLproject"):
        retrain("x", project=tmp_path)


def test_two_triggers_at_once_start_one_pipeline(toy, tmp_path):
    (tmp_path / "w" / "hold").touch()
    outcomes: list[object] = []
    refused = threading.Event()

    def work():
        try:
            outcomes.append(go(toy, tmp_path).version)
        except PipelineError as error:
            outcomes.append(str(error))
            refused.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert refused.wait(60)
    (tmp_path / "w" / "hold").unlink()
    for thread in threads:
        thread.join(60)
    assert len(starts(tmp_path)) == 1
    assert 7 in outcomes
    assert "another pipeline is running" in next(o for o in outcomes if o != 7)


def test_a_trigger_elsewhere_with_the_same_store_starts_no_second_pipeline(toy, tmp_path):
    """Two machines share no workspace, but the store: the lease in it names the other one."""
    with (
        Store.open() as store,
        model_lease(store, "support", name="trigger"),
        pytest.raises(PipelineError, match="another pipeline for support is running: process"),
    ):
        go(toy, tmp_path)
    assert starts(tmp_path) == []


def test_a_trigger_starts_once_and_then_cools_down(toy, tmp_path):
    policy = TriggerPolicy.model_validate(
        {
            "apiVersion": "mlflow-agents/v1",
            "rules": [{"name": "labels", "when": "new_labels", "at_least": 5}],
        }
    )
    options = {"project": toy, "workspace": tmp_path / "w"}
    now = datetime.now(timezone.utc)
    few = Signals(now, new_labels=4)
    many = Signals(now, new_labels=5)
    assert run_trigger(policy, few, **options)[1] is None
    decision, nothing = run_trigger(policy, many, dry_run=True, **options)
    assert decision.fire
    assert nothing is None
    assert starts(tmp_path) == []
    decision, result = run_trigger(policy, many, **options)
    assert result.version == 7
    assert result.reason == "labels: 5 new labels, 5 are asked for"
    again, nothing = run_trigger(policy, many, **options)
    assert again.fire is False
    assert again.cooling_until > now + timedelta(hours=23)
    assert nothing is None
    assert len(starts(tmp_path)) == 1


def test_the_pipeline_runs_with_this_python(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (toy / "run.py").write_text(SCRIPT.replace("ok = not", "print(sys.executable); ok = not"))
    script = (toy / "run.py").read_text()
    script = script.replace(
        'values["tracking"]', 'values["python"] = sys.executable; values["tracking"]'
    )
    (toy / "run.py").write_text(script)
    go(toy, tmp_path)
    assert starts(tmp_path)[0]["python"] == sys.executable
