"""The registry's pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.registry_world import GATE

from mlflow_agent_plugin.registry.commands import Command
from mlflow_agent_plugin.registry.requirements import KINDS
from mlflow_agent_plugin.registry.rules import GateRules, parse_rules

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "gate-yaml.md").read_text(encoding="utf-8")
HOW_TO = (DOCS / "how-to" / "review-and-promote.md").read_text(encoding="utf-8")


def test_the_example_of_the_reference_is_in_order():
    for block in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL):
        assert parse_rules(block).slots()


def test_every_field_is_in_the_reference():
    for name, field in GateRules.model_fields.items():
        assert f"`{field.alias or name}`" in REFERENCE
    for kind, model in KINDS.items():
        section = REFERENCE.split(f"### {kind}\n")[1].split("\n##")[0]
        for name, field in model.model_fields.items():
            if name == "kind":
                continue
            assert f"`{name}`" in section, f"{kind}.{name}"
            default = field.get_default()
            if isinstance(default, (int, float, str)):
                shown = str(default).lower() if isinstance(default, bool) else f"{default}"
                assert re.search(rf'`"?{re.escape(shown)}"?`', section), f"{kind}.{name}: {shown}"


def test_every_command_is_in_the_how_to():
    for command in Command:
        assert f"`{command.value}`" in HOW_TO


def test_the_how_to_runs_as_it_stands(world, monkeypatch, capsys):
    import mlflow

    monkeypatch.setenv("MLFLOW_REGISTRY_URI", world.registry_uri)
    mlflow.set_registry_uri(world.registry_uri)
    names = {"world": world, "GATE": GATE}
    pattern = r"```python\n(.*?)```|<!-- run: (.*?) -->"
    for block, hidden in re.findall(pattern, HOW_TO, re.DOTALL):
        exec(compile(block or hidden, "review-and-promote.md", "exec"), names)
    assert "rolled_back" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    ["concepts/gate.md", "how-to/review-and-promote.md", "reference/gate-yaml.md",
     "reference/registry-paths.md"],
)  # fmt: skip
def test_links_lead_somewhere(page):
    path = DOCS / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
