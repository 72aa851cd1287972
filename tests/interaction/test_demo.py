"""The main job runs from its first step to its last, and its numbers hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.integration
def test_the_whole_loop_runs_and_its_numbers_hold(tmp_path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_") or name == "MLFLOW_AGENTS_DATA_DIR"
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow_agent_plugin.interaction.cli",
            "demo", "--dir", str(tmp_path / "demo"), "--json",
        ],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    numbers = result["numbers"]
    assert result["ok"]
    assert [("approvals" in text) for text in numbers["refusals"]] == [True, True]
    assert numbers["drift"]["days"][:2] == [False, False]
    assert numbers["drift"]["confirmed_on_day"] in (4, 5)
    later = numbers["later_task_success"]
    assert later["after"] > later["before"] + 0.2
    if "BANKING77 (" in numbers["data"]:
        assert numbers["planner_2"]["n_test"] == 3080
        assert numbers["planner_2"]["accuracy"] >= 0.90
        assert numbers["v2_whole"]["task_success"]["value"] >= 0.85
