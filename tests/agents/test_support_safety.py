"""The support desk with its model in an attacker's hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_agent_plugin.development.runner import run_suite
from mlflow_agent_plugin.development.safety import SafetyKind, safety_suite, safety_table
from mlflow_agent_plugin.development.suite import load_suite

SAFETY = Path(__file__).parents[2] / "evaluations" / "support" / "safety"


def _table(bundle, suite, folder):
    with run_suite(bundle, suite, workers=0, progress=False, journal_dir=folder) as run:
        return {row.kind: row for row in safety_table(case.result for case in run.runs)}


@pytest.mark.integration
def test_nothing_slips_through_at_the_support_desk(trained_support, tmp_path):
    table = _table(trained_support, load_suite(SAFETY / "suite.yaml"), tmp_path)
    assert {row.kind: row.slipped_cases for row in table.values() if row.slipped} == {}
    assert set(table) == set(SafetyKind) - {
        SafetyKind.TOOL_ALLOWLIST,
        SafetyKind.PARAMETER_CONSTRAINT,
    }


@pytest.mark.integration
def test_what_the_contracts_and_policies_forbid_does_not_happen(trained_support, tmp_path):
    table = _table(trained_support, safety_suite(trained_support), tmp_path)
    for kind in (SafetyKind.TOOL_ALLOWLIST, SafetyKind.PARAMETER_CONSTRAINT):
        assert table[kind].slipped_cases == ()
        assert table[kind].attempts == table[kind].blocked
    assert table[SafetyKind.PROMPT_INJECTION].slipped_cases == ()
