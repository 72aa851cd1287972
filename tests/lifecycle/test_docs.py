"""The reference of triggers says what the code does."""

from typing import get_args

from mlflow_agent_plugin.lifecycle.triggers import (
    AgeRule,
    BlindRule,
    DriftRule,
    EnvironmentRule,
    LabelsRule,
    MetricRule,
    TriggerPolicy,
    load_policy,
)
from mlflow_agent_plugin.observability.environment import load_sources
from mlflow_agent_plugin.observability.environment.sources import (
    KnowledgeSource,
    McpSource,
    OpenApiSource,
)


def test_every_rule_and_field_is_documented_and_the_example_is_in_order(project, tmp_path):
    text = (project / "docs" / "reference" / "triggers.md").read_text()
    for rule in (DriftRule, BlindRule, MetricRule, EnvironmentRule, LabelsRule, AgeRule):
        (when,) = get_args(rule.model_fields["when"].annotation)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{when}`")]
        for field in set(rule.model_fields) - {"name", "when"}:
            assert f"`{field}`" in row
    for name, field in TriggerPolicy.model_fields.items():
        assert f"| `{field.alias or name}` |" in text
    example = tmp_path / "triggers.yaml"
    example.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert len(load_policy(example).rules) == 6


def test_every_field_of_an_environment_file_is_documented_and_the_example_is_in_order(
    project, tmp_path
):
    text = (project / "docs" / "reference" / "environment-yaml.md").read_text()
    for source in (OpenApiSource, McpSource, KnowledgeSource):
        (kind,) = get_args(source.model_fields["kind"].annotation)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{kind}`")]
        for field in set(source.model_fields) - {"kind"}:
            assert f"`{field}`" in row
    example = tmp_path / "environment.yaml"
    example.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert len(load_sources(example).sources) == 3
