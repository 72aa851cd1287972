"""The page about the support agent says what the agent is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "concepts" / "support-agent.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_example_runs_and_prints_what_it_promises(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(block, PAGE.name, "exec"), names)
    names["bank"].close()
    (promised,) = re.findall(r"print\(.*\)\n# (.*)", block)
    assert promised in capsys.readouterr().out


def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page):
        assert (PAGE.parent / link).exists(), link


def test_every_tool_is_listed_under_its_effect(page, support):
    for effect in ("read", "write", "irreversible"):
        (row,) = re.findall(rf"^\| {effect} \| (.*) \|$", page, re.MULTILINE)
        own = {n for n, contract in support.contracts.items() if contract.effect.value == effect}
        assert set(re.findall(r"`(\w+)`", row)) == own


def test_every_policy_is_named(page, support):
    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine

    for name in CedarPolicyEngine.from_bundle(support).policies:
        short = name.removeprefix("permit-customer")
        assert f"`{name}`" in page or f"`{short}`" in page, name


def test_every_setting_and_customer_of_the_bank_is_named(page, part):
    for setting in part("bank:SETTINGS"):
        assert f"| `{setting}` |" in page
    for customer in part("bank_seed:PEOPLE"):
        assert f"| `{customer}` |" in page


def test_the_numbers_of_parts_are_right(page, support):
    from mlflow_agent_plugin.development.suite import load_suite

    articles = len(list((ROOT / "agents/support/knowledge").glob("*.md")))
    assert f"({len(support.contracts)} tools) and the help articles ({articles})" in page
    journeys = len(load_suite(ROOT / "evaluations/support/journeys.yaml"))
    assert f"holds {journeys} whole conversations" in page
