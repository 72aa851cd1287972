"""The reference says what the code does."""

from pathlib import Path

import pytest

from mlflow_agent_plugin.observability.drift.features import FEATURES, TESTS
from mlflow_agent_plugin.observability.drift.verdict import DriftRules
from mlflow_agent_plugin.observability.metrics import METRIC_NAMES
from mlflow_agent_plugin.observability.schema import COLUMNS, SCHEMA_VERSION
from mlflow_agent_plugin.observability.steps import STEP_COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_column_of_the_monitoring_table_is_documented_as_it_is():
    text = (DOCS / "reference" / "monitoring-table.md").read_text()
    assert f"Schema version: {SCHEMA_VERSION} " in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{c.name}` | {c.kind} | {'no' if c.required else 'yes'} | {c.meaning} |"
        for c in (*COLUMNS, *STEP_COLUMNS)
    ]


def test_every_metric_a_trigger_can_name_is_documented():
    text = (DOCS / "reference" / "triggers.md").read_text()
    assert [name for name in METRIC_NAMES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_every_compared_column_is_explained(feature):
    assert f"`{feature.name}`" in (DOCS / "concepts" / "drift.md").read_text()
    assert feature.test in TESTS


def test_the_documented_drift_settings_are_the_defaults():
    text = (DOCS / "concepts" / "drift.md").read_text()
    rules = DriftRules()
    assert f"(`alpha` {rules.alpha})" in text
    assert f"`effect_floor` ({rules.effect_floor})" in text
    assert f"fewer than {rules.minimum_sessions} sessions" in text
    assert rules.windows == 2
