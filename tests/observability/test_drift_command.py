"""The drift check as a process of its own."""

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_agent_plugin.observability.days import add_rows
from mlflow_agent_plugin.observability.drift.__main__ import main
from mlflow_agent_plugin.observability.schema import write_reference

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def places(row, tmp_path):
    """A reference and a table of ordinary traffic, and a table of slow answers nobody asked for."""
    reference = write_reference([row(n) for n in range(150)], tmp_path / "reference.parquet")
    for name, changes in (("calm", {}), ("odd", {"intent": "other", "confidence": 0.1})):
        (tmp_path / name).mkdir()
        add_rows(tmp_path / name, [row(n, **changes) for n in range(1000, 1300)], set())
    return reference, tmp_path / "calm", tmp_path / "odd"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_exit_code_says_what_the_verdict_is(places, tmp_path):
    reference, calm, odd = places
    common = ("--reference", reference, "--no-log", "--report-dir", tmp_path / "report")
    done = run(*common, "--table", calm)
    assert (done.exit_code, json.loads(done.stdout)["drifted"]) == (0, False)
    done = run(*common, "--table", odd)
    assert (done.exit_code, json.loads(done.stdout)["suspected"]) == (4, True)
    assert "drift suspected" in done.stderr
    done = run(*common, "--table", odd, "--sessions", 150)
    assert (done.exit_code, json.loads(done.stdout)["drifted"]) == (3, True)
    done = run(*common, "--table", odd, "--exit-zero")
    assert done.exit_code == 0
    assert (tmp_path / "report" / "drift.html").exists()


def test_the_verdict_before_is_read_from_a_file(places, tmp_path):
    reference, _, odd = places
    common = ("--reference", reference, "--table", odd, "--no-log")
    first = run(*common, "--until", "2026-03-01T12:19:00", "--report-dir", tmp_path / "1")
    assert first.exit_code == 4, first.stderr
    second = run(
        *common,
        *("--since", "2026-03-01T12:19:00", "--report-dir", tmp_path / "2"),
        *("--previous", tmp_path / "1" / "drift.json"),
    )
    assert second.exit_code == 3, second.stderr


def test_what_cannot_be_checked_is_one_line_and_exit_code_1(places, tmp_path):
    reference, calm, _ = places
    for arguments in (
        ("--reference", tmp_path / "nowhere", "--table", calm),
        ("--reference", reference, "--table", tmp_path / "nowhere"),
        ("--reference", reference, "--table", calm, "--since", "soon"),
        ("--reference", reference, "--table", calm, "--previous", tmp_path / "nowhere"),
        ("--reference", "models:/nobody/1", "--table", calm),
        ("--reference", "runs:/nothing", "--table", calm),
    ):
        done = run(*arguments, "--no-log", "--report-dir", tmp_path / "r")
        assert done.exit_code == 1, arguments
        assert done.stderr.startswith("Error: ")
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.integration
def test_the_mlflow_project_s_drift_entry_point_keeps_the_verdict_in_its_run(
    places, tmp_path, monkeypatch
):
    import mlflow

    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")

    reference, calm, _ = places
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    done = mlflow.projects.run(
        str(PROJECT),
        entry_point="drift",
        parameters={
            "reference": str(reference),
            "table": str(calm),
            "report_dir": str(tmp_path / "report"),
        },
        experiment_name="checks",
        env_manager="local",
    )
    run = mlflow.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["agent.drift"] == "false"
    assert (
        mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/drift/drift.json")["drifted"] is False
    )
