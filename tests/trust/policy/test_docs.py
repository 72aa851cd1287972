"""The how-to's files are a working policy folder."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_how_to_builds_an_agent_whose_check_prints_what_the_text_says(make_bundle):
    import yaml

    from mlflow_agent_plugin.trust.policy import check_policies

    text = (DOCS / "how-to/write-a-policy.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```\w+ (\S+/\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(files) == 7
    contracts = [yaml.safe_load(body) for name, body in files.items() if name.startswith("contr")]
    policies = {name: body for name, body in files.items() if name.startswith("policies/")}
    bundle = make_bundle(contracts=contracts, more=policies)
    assert f"    {check_policies(bundle)}\n" in text


def test_the_reference_names_every_annotation_and_every_field_of_a_case():
    from mlflow_agent_plugin.trust.policy.lint import ANNOTATIONS
    from mlflow_agent_plugin.trust.policy.policy_tests import PolicyTestCase
    from mlflow_agent_plugin.trust.policy.schema import SESSION_TYPES

    reference = (DOCS / "reference/policy-tests.md").read_text(encoding="utf-8")
    concepts = (DOCS / "concepts/policies.md").read_text(encoding="utf-8")
    for name in ANNOTATIONS:
        assert f"`@{name}(" in reference
    for name in PolicyTestCase.model_fields:
        assert f"| `{name}` |" in reference
    for name in SESSION_TYPES:
        assert f"`{name}`" in concepts
