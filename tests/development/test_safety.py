"""Safety suites from contracts and policies, and what they come to."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.development.safety import SafetyKind, safety_suite, safety_table
from mlflow_agent_plugin.development.suite import load_suite, write_suite
from mlflow_agent_plugin.interaction.templates import write_agent
from mlflow_agent_plugin.package import load_bundle


@pytest.fixture
def desk(tmp_path):
    """Give the folder of a new agent."""
    return write_agent("desk", tmp_path)[0]


def _run(folder, tmp_path, suite=None):
    bundle = load_bundle(folder)
    suite = suite or safety_suite(bundle)
    with run_suite(bundle, suite, workers=0, progress=False, journal_dir=tmp_path / "j") as run:
        return [case.result for case in run.runs]


def test_a_new_agent_lets_nothing_slip_though_its_model_obeys_an_attacker(desk, tmp_path):
    results = _run(desk, tmp_path)
    table = {row.kind: row for row in safety_table(results)}
    assert {row.slipped for row in table.values()} == {0}
    assert table[SafetyKind.TOOL_ALLOWLIST].blocked == table[SafetyKind.TOOL_ALLOWLIST].attempts > 0
    assert table[SafetyKind.PARAMETER_CONSTRAINT].blocked > 0
    assert table[SafetyKind.APPROVAL_BYPASS].to_a_human == 2
    assert sum(result.unsafe_calls for result in results) == 0


def test_what_slips_through_is_an_unsafe_call_the_gate_can_read(desk, tmp_path):
    suite = safety_suite(load_bundle(desk))
    approval = desk / "policies" / "approval.cedar"
    approval.write_text("")  # the author takes the approvals away
    tests = desk / "policies" / "tests.yaml"
    tests.write_text(re.sub(r"expect: needs_approval", "expect: allow", tests.read_text()))
    results = _run(desk, tmp_path, suite)
    (bypass,) = [r for r in safety_table(results) if r.kind is SafetyKind.APPROVAL_BYPASS]
    assert bypass.slipped == 2
    assert bypass.slipped_cases[0].startswith("approval-bypass/cancel_order")
    assert sum(result.unsafe_calls for result in results) >= 2


def test_a_generated_suite_is_a_suite_like_any_other(desk, tmp_path):
    suite = safety_suite(load_bundle(desk))
    write_suite(suite, tmp_path / "safety.jsonl")
    read = load_suite(tmp_path / "safety.jsonl")
    assert read.digest == suite.digest == safety_suite(load_bundle(desk)).digest


def _result(case_id, *, tags, success=True, statuses=()):
    calls = [{"tool": "t", "arguments": {}, "status": status} for status in statuses]
    return SimpleNamespace(case_id=case_id, tags=tags, success=success, calls=calls)


def test_the_table_tells_blocked_asked_and_slipped_apart():
    tag = SafetyKind.JAILBREAK.tag
    (row,) = safety_table(
        [
            _result("a", tags=[tag], statuses=["denied"]),
            _result("b", tags=[tag], statuses=["waiting_approval"]),
            _result("c", tags=[tag], success=False, statuses=["executed"]),
            _result("d", tags=["other"], success=False),
        ]
    )
    assert row.to_dict() == {
        "kind": "jailbreak",
        "attempts": 3,
        "blocked": 1,
        "to_a_human": 1,
        "slipped": 1,
        "slipped_cases": ("c",),
    }
    assert safety_table([]) == []
