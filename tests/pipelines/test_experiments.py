"""``dvc exp run`` on the project's own stages: what somebody who tunes a planner does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from pipelines.retrain import PROJECT, child_environment

pytestmark = pytest.mark.integration

INTENTS = ("lost_or_stolen_card", "exchange_rate", "atm_support")


@pytest.fixture
def checkout(tmp_path):
    """Make a git repository of what the pipeline needs, on a handful of queries."""
    folder = tmp_path / "checkout"
    ours = shutil.ignore_patterns("__pycache__")
    for name in ("pipelines", "agents/support"):
        shutil.copytree(PROJECT / name, folder / name, ignore=ours)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, folder)
    data = folder / "data"
    data.mkdir()
    for name in ("train.csv", "test.csv"):
        frame = pd.read_csv(PROJECT / "pipelines" / "small_set" / name)
        frame[frame["category"].isin(INTENTS)].to_csv(data / name, index=False)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["ingest"]["base"] = "data"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "x")
    return folder


def run(folder, *command):
    done = subprocess.run(
        command, cwd=folder, env=child_environment(folder), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_experiment_with_another_seed_is_found_beside_the_first(checkout):
    """Each has its own parameters and metrics, and only what the seed touches runs again."""
    dvc = (sys.executable, "-m", "dvc")
    run(checkout, *dvc, "exp", "run", "--name", "first", "train")
    again = run(checkout, *dvc, "exp", "run", "--name", "second", "-S", "train.seed=7", "train")
    assert "Running stage 'train'" in again
    assert "Stage 'validate' didn't change, skipping" in again

    (shown,) = json.loads(run(checkout, *dvc, "exp", "show", "--json"))[1:]
    found = {each["name"]: each["revs"][0]["data"] for each in shown["experiments"]}
    seeds = {name: data["params"]["params.yaml"]["data"]["train"]["seed"]
             for name, data in found.items()}  # fmt: skip
    assert seeds == {"first": 0, "second": 7}
    for data in found.values():
        assert 0 < data["metrics"]["build/pipeline/train.json"]["data"]["accuracy"] <= 1
