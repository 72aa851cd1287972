"""Suites in somebody else's pytest: real pytest processes, and nothing when not asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLUGIN = "mlflow_agent_plugin.development.pytest_plugin"


@pytest.fixture
def suite_file(tmp_path):
    """A suite of three cases: one right, one wrong, one whose tool ends the process."""
    expect = {"outcomes": ["answered"]}
    lines = [
        {"apiVersion": "mlflow-agents/v1", "name": "tiny"},
        {"id": "look", "turns": [{"user": "look at it"}], "expect": expect, "tags": ["smoke"]},
        {"id": "wrong", "turns": [{"user": "look at it"}], "expect": {"outcomes": ["refused"]}},
        {"id": "crash", "turns": [{"user": "crash it"}], "expect": expect},
    ]
    file = tmp_path / "tiny.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def _pytest(folder, *words, plugin=PLUGIN):
    folder.mkdir(exist_ok=True)
    (folder / "test_own.py").write_text("def test_own():\n    pass\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    # Where the checkout is installed, pytest has found the plugin by its entry point already.
    from importlib.metadata import entry_points

    known = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    load = [] if known or plugin is None else ["-p", plugin]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *load, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
def test_each_case_is_a_test_and_a_crash_costs_one(lamps_dir, suite_file, tmp_path):
    done = _pytest(
        tmp_path / "ci", "-v", "--mlflow-agent", str(lamps_dir), "--mlflow-suite", str(suite_file)
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout
    assert "tiny::look PASSED" in done.stdout
    assert "outcome: answered where refused was wanted" in done.stdout
    assert "exit code 9" in done.stdout
    assert "test_own" not in done.stdout


@pytest.mark.integration
def test_the_short_options_work_where_nobody_else_has_them(lamps_dir, suite_file, tmp_path):
    words = ["-k", "look", "--agent", str(lamps_dir), f"--suite={suite_file}", "--seed", "3"]
    done = _pytest(tmp_path / "ci", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "test_own" not in done.stdout


def test_a_short_option_of_somebody_else_stays_theirs(tmp_path):
    folder = tmp_path / "ci"
    folder.mkdir()
    (folder / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--agent')\n"
        "    parser.addoption('--suite')\n"
        "def pytest_report_header(config):\n"
        '    return f\'theirs: {config.getoption("--agent")} {config.getoption("--suite")}\'\n'
    )
    done = _pytest(folder, "--agent", "smith", "--suite", "black")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "theirs: smith black" in done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.integration
def test_cases_can_be_chosen_and_stand_beside_ordinary_tests(lamps_dir, suite_file, tmp_path):
    done = _pytest(
        tmp_path / "ci", "test_own.py", "-k", "look or own",
        "--mlflow-agent", str(lamps_dir), "--mlflow-suite", str(suite_file),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 2 deselected" in done.stdout


def test_a_suite_that_does_not_fit_is_one_error_and_no_test(lamps_dir, tmp_path):
    file = tmp_path / "bad.jsonl"
    expect = {"calls_required": [{"tool": "lok"}]}
    file.write_text(json.dumps({"id": "a", "turns": [{"user": "x"}], "expect": expect}) + "\n")
    done = _pytest(tmp_path / "ci", "--mlflow-agent", str(lamps_dir), "--mlflow-suite", str(file))

    assert done.returncode == 4
    assert "Did you mean 'look'?" in done.stdout + done.stderr


@pytest.mark.parametrize("words", [("--mlflow-agent", "x"), ("--mlflow-suite", "x")])
def test_half_of_the_options_is_a_usage_error(tmp_path, words):
    done = _pytest(tmp_path / "ci", *words)
    assert done.returncode == 4
    assert "needs --mlflow-" in done.stdout + done.stderr


def test_without_the_options_nothing_is_loaded(tmp_path):
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "test_cost.py").write_text(
        "import sys\n\n\ndef test_cost():\n"
        "    ours = {m for m in sys.modules if m.startswith('mlflow_agent_plugin')}\n"
        "    assert ours <= {'mlflow_agent_plugin', 'mlflow_agent_plugin.development',\n"
        f"                    '{PLUGIN}'}}, ours\n"
        "    assert not {'mlflow', 'pandas', 'pydantic', 'langchain_core'} & set(sys.modules)\n"
    )
    done = _pytest(
        tmp_path / "ci", "-p", "no:hypothesispytest", "-p", "no:langsmith_plugin", "test_cost.py"
    )
    assert done.returncode == 0, done.stdout
