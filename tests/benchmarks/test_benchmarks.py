"""The benchmarks run by one command, and say what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, HERE, draw, growth

ROOT = Path(__file__).parents[2]


def run(*arguments, timeout=600):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_a_benchmark_that_does_not_exist_is_an_error_that_names_those_that_do():
    said = run("abacus")
    assert said.returncode == 2
    assert "there is no abacus" in said.stderr
    assert "served" in said.stderr


def test_every_benchmark_has_its_script_and_the_list_says_what_it_measures():
    assert all((HERE / each.script).is_file() for each in BENCHMARKS)
    listed = run("--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [each.name for each in BENCHMARKS]


def test_growth_is_drawn_from_what_was_measured_and_from_nothing_else(tmp_path):
    draw(tmp_path)
    assert list(tmp_path.iterdir()) == []
    row = {"append_cpu_ms": 0.3, "verified_per_cpu_second": 100_000.0, "counts": True}
    (tmp_path / "audit.json").write_text(json.dumps({"sizes": {"10": row, "1000": row}}))
    found = growth(tmp_path)
    assert set(found) == {"audit append", "audit verify"}
    assert found["audit verify"] == ([10, 1000], [10.0, 10.0], "µs CPU per event")
    draw(tmp_path)
    assert "</svg>" in (tmp_path / "growth.svg").read_text()


@pytest.mark.integration
def test_the_command_measures_writes_json_and_says_whether_limits_held(tmp_path):
    run("audit", "--out", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (audit,) = summary["benchmarks"]
    assert (audit["name"], audit["wrote"]) == ("audit", True)
    sizes = json.loads((tmp_path / "audit.json").read_text())["sizes"]
    assert set(sizes) == {"1000", "20000"}
    assert (tmp_path / "growth.svg").exists()


@pytest.mark.integration
def test_a_soak_of_seconds_ends_without_an_error(tmp_path):
    """The whole path of the half hour, short: it starts a server and trains a planner."""
    result = tmp_path / "soak.json"
    subprocess.run(
        [sys.executable, str(HERE / "soak.py"), "--minutes", "0.1", "--peak-seconds", "1",
         "--folder", str(tmp_path / "soak"), "--json", str(result)],
        cwd=tmp_path, check=False, timeout=900,
    )  # fmt: skip
    found = json.loads(result.read_text())
    assert (found["errors"], found["first_error"]) == (0, None)
    assert found["requests"] > 0
    assert found["memory_mb"][0] > 0


def test_the_recovered_share_weighs_new_intents_by_their_share_of_the_traffic():
    """Nine of ten known queries right before and after; of the new ones none, then three of four."""
    import numpy as np

    from benchmarks.retraining_recovery import interval, recovery

    new = np.repeat([False, True], [100, 40])
    first = np.concatenate([np.arange(100) < 90, np.zeros(40, bool)])
    again = np.concatenate([np.arange(100) < 90, np.arange(40) < 30])
    before, shifted, after, share = recovery(first, again, new)
    assert (before, shifted, after) == pytest.approx((0.9, 0.72, 0.87))
    assert share == pytest.approx(0.15 / 0.18)
    low, high = interval(first, again, new, np.random.default_rng(0))
    assert 0.6 < low < share < high < 1.1
