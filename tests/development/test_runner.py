"""A whole suite: in processes that may die, interrupted and resumed, always the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.lamp_agent import write_lamps

from mlflow_agent_plugin.development import Scenario, Suite
from mlflow_agent_plugin.development.journal import open_journal
from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.errors import AgentError, IntegrityError, PipelineError, SuiteError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import write_results


def case(case_id, text, expect=None, **more):
    expect = expect or {"outcomes": ["answered"]}
    return Scenario.model_validate(
        {"id": case_id, "turns": [{"user": text}], "expect": expect, **more}
    )


def mixed(*more):
    cases = [case(f"look-{n}", "look") for n in range(4)]
    acted = {"outcomes": ["acted"], "calls_required": [{"tool": "switch"}]}
    cases += [case(f"switch-{n}", "switch", acted) for n in range(3)]
    return Suite(name="tiny", scenarios=(*cases, *more))


def play(bundle, suite, **options):
    with run_suite(bundle, suite, progress=False, **options) as run:
        return run


def results(run, path):
    write_results([r.result for r in run.runs], path)
    return path.read_bytes()


def test_an_unknown_tool_is_an_error_before_anything_runs(lamps):
    suite = Suite(
        name="tiny", scenarios=(case("a", "look", {"calls_required": [{"tool": "lok"}]}),)
    )
    with pytest.raises(SuiteError, match="Did you mean 'look'"):
        play(lamps, suite, workers=0)


def test_negative_workers_are_an_error(lamps):
    with pytest.raises(SuiteError, match="workers must be at least 0"):
        play(lamps, mixed(), workers=-1)


def test_the_number_of_workers_does_not_change_a_byte(lamps, tmp_path):
    here = results(play(lamps, mixed(), workers=0), tmp_path / "0.jsonl")
    assert results(play(lamps, mixed(), workers=1), tmp_path / "1.jsonl") == here
    two = play(lamps, mixed(), workers=2)
    assert results(two, tmp_path / "2.jsonl") == here
    assert [r.result.success for r in two.runs] == [True] * 7
    assert two.audit_events >= 7 * 2


@pytest.mark.integration
def test_a_crash_and_a_hang_cost_one_case_each_and_the_others_finish(lamps):
    suite = mixed(case("crash", "crash"), case("hang", "hang", max_seconds=1))
    run = play(lamps, suite, workers=2)
    failed = {r.result.case_id: r.result.failures for r in run.runs if not r.result.success}
    assert failed == {
        "crash": ["stopped: the process died (exit code 9)"],
        "hang": ["stopped: it took longer than 1 seconds"],
    }
    assert len(run.runs) == 9


def test_a_case_that_took_too_long_in_this_process_has_failed(lamps):
    run = play(lamps, mixed(case("slow", "look", max_seconds=0.001)), workers=0)
    failed = {r.result.case_id: r.result.failures for r in run.runs if not r.result.success}
    assert failed == {"slow": ["stopped: it took longer than 0.001 seconds"]}


def test_an_agent_that_does_not_open_is_one_error(tmp_path):
    root = write_lamps(tmp_path / "broken", settings={"replies": []})
    with pytest.raises(AgentError, match="replies or scripts"):
        play(load_bundle(root), mixed(), workers=1)


def test_an_agent_that_changed_since_it_was_loaded_is_not_evaluated(lamps):
    (lamps.root / "prompts/hello.md").write_text("Hello {{ name }}, changed!")
    with pytest.raises(IntegrityError, match="changed while it was evaluated"):
        play(lamps, mixed(), workers=1)


def test_an_interrupted_run_goes_on_where_it_was(lamps, tmp_path):
    seen = []

    def stop_after_three(_name, done, _total):
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        run_suite(lamps, mixed(), workers=0, progress=stop_after_three),
    ):
        pass
    run = play(lamps, mixed(), workers=0)
    assert run.resumed == 3
    whole = play(lamps, mixed(), workers=0)
    assert whole.resumed == 0
    assert results(run, tmp_path / "a.jsonl") == results(whole, tmp_path / "b.jsonl")


def test_a_run_whose_results_could_not_be_kept_goes_on_too(lamps):
    with pytest.raises(OSError, match="full"), run_suite(lamps, mixed(), workers=0, progress=False):
        raise OSError("full")
    assert play(lamps, mixed(), workers=0).resumed == 7


def test_another_seed_or_suite_does_not_use_the_journal(lamps):
    with pytest.raises(OSError, match="full"), run_suite(lamps, mixed(), workers=0, progress=False):
        raise OSError("full")
    assert play(lamps, mixed(), workers=0, seed=1).resumed == 0
    assert play(lamps, mixed(case("more", "look")), workers=0).resumed == 0


def test_a_line_that_was_cut_off_is_played_again(lamps, tmp_path):
    folder = tmp_path / "journals"
    options = {"workers": 0, "progress": False, "journal_dir": folder}
    with pytest.raises(OSError, match="full"), run_suite(lamps, mixed(), **options):
        raise OSError("full")
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    run = play(lamps, mixed(), workers=0, journal_dir=folder)
    assert run.resumed == 6
    assert len(run.runs) == 7
    assert list(folder.iterdir()) == []


def test_the_same_evaluation_twice_at_once_is_refused(lamps, tmp_path):
    keys = {"agent_digest": lamps.digest.value, "suite_digest": mixed().digest, "seed": 0}
    with open_journal(**keys, folder=tmp_path / "j"), pytest.raises(PipelineError, match="running"):
        play(lamps, mixed(), workers=0, journal_dir=tmp_path / "j")


@pytest.mark.integration
def test_a_run_killed_by_the_system_goes_on_and_leaves_no_worker(lamps, tmp_path):
    suite_file = tmp_path / "many.jsonl"
    suite_file.write_text(
        "".join(
            json.dumps(
                {"id": f"c{n}", "turns": [{"user": "look"}], "expect": {"outcomes": ["answered"]}}
            )
            + "\n"
            for n in range(400)
        )
    )
    script = """
import sys
from pathlib import Path
from mlflow_agent_plugin.development import load_suite
from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.package import load_bundle
tell = lambda name, done, total: print(done, flush=True)
with run_suite(load_bundle(sys.argv[1]), load_suite(sys.argv[2]), workers=1, progress=tell):
    pass
"""
    command = [sys.executable, "-c", script, str(lamps.root), str(suite_file)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in first.stdout:
        if int(line) >= 20:
            break
    children = subprocess.run(
        ["ps", "--ppid", str(first.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    done = [int(line) for line in second.stdout.split()]
    assert second.returncode == 0, second.stderr
    assert done[0] > 20
    assert done[-1] == 400
    assert len(done) == len(set(done))
    assert children
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a worker survived its parent"
        os.sched_yield()


def test_an_engine_that_does_not_exist_is_an_error(lamps):
    with pytest.raises(SuiteError, match=r"no engine 'abacus'. Use processes or spark"):
        play(lamps, mixed(), engine="abacus")
