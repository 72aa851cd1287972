"""The folder of agents is what its README says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

AGENTS = Path(__file__).resolve().parents[2] / "agents"
BUNDLES = sorted(path.parent for path in AGENTS.glob("*/agent.yaml"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_every_kind_of_file_of_a_bundle_is_explained(bundle):
    readme = (AGENTS / "README.md").read_text(encoding="utf-8")
    for path in bundle.iterdir():
        if path.name == "__pycache__":
            continue
        is_own_code = path.suffix == ".py" and path.name not in {"graph.py", "tools.py"}
        assert is_own_code or f"`{path.name}" in readme, path


def test_a_copied_agent_passes_its_checks_under_another_name(tmp_path):
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust.policy import check_policies

    copy = tmp_path / "mine"
    shutil.copytree(AGENTS / "incident_triage", copy, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = copy / "agent.yaml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("name: incident_triage", "name: mine", 1), encoding="utf-8")
    result = check_policies(load_bundle(copy))
    assert result.tests
    assert result.warnings == ()


def test_the_gate_of_incident_triage_is_stricter_than_the_default():
    from mlflow_agent_plugin.registry.rules import default_rules, loosened, parse_rules

    own = parse_rules((AGENTS / "incident_triage/gate.yaml").read_text(encoding="utf-8"))
    assert loosened(default_rules(), own) == []
    assert loosened(own, default_rules())
