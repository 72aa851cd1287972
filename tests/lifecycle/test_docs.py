"""The reference of triggers says what the code does."""

from typing import get_args

from mlflow_agent_plugin.lifecycle.triggers import (
    AgeRule,
    BlindRule,
    DriftRule,
    LabelsRule,
    MetricRule,
    TriggerPolicy,
    load_policy,
)


def test_every_rule_and_field_is_documented_and_the_example_is_in_order(project, tmp_path):
    text = (project / "docs" / "reference" / "triggers.md").read_text()
    for rule in (DriftRule, BlindRule, MetricRule, LabelsRule, AgeRule):
        (when,) = get_args(rule.model_fields["when"].annotation)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{when}`")]
        for field in set(rule.model_fields) - {"name", "when"}:
            assert f"`{field}`" in row
    for name, field in TriggerPolicy.model_fields.items():
        assert f"| `{field.alias or name}` |" in text
    example = tmp_path / "triggers.yaml"
    example.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert len(load_policy(example).rules) == 5
