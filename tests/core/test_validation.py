"""What can be wrong with a bundle is said before it is logged."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.shelf_agent import say, write_bundle

from mlflow_agent_plugin.core import validate
from mlflow_agent_plugin.errors import (
    BundleError,
    ContractError,
    GraphError,
    ManifestError,
    PolicyError,
    PromptError,
)

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "b", [say("hi")], folder=tmp_path / "shelf")


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "words"),
    [
        ("agent.yaml", "owner: tests", "owner: tests\nowns: x", ManifestError, "owns"),
        ("agent.yaml", "name: shelf", "name: [shelf]", ManifestError, "name"),
        ("prompts/hello.md", "{{ name }}", "{{ name", PromptError, "hello.md"),
        ("contracts/look.yaml", "effect: read", "effect: peek", ContractError, "effect"),
        ("policies/hard.cedar", "context.input.item", "context.input.itm", PolicyError, "itm"),
        ("policies/permit.cedar", '"look"', '"lok"', PolicyError, "lok"),
        ("policies/permit.cedar", '@id("reads")', "", PolicyError, "@id"),
        ("policies/tests.yaml", "expect: allow", "expect: deny", PolicyError, "anyone may look"),
        ("graph.py", "def build(context):", "def build(context):\n    1/0", GraphError, "division"),
        ("graph.py", "return graph", "return 3", GraphError, "int"),
        ("graph.py", "from langgraph", "from langgrph", BundleError, "langgrph"),
        ("tools.py", "def burn(", "def burned(", BundleError, "burn"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_place(folder, file, old, new, error, words):
    change(folder / file, old, new)
    with pytest.raises(error) as caught:
        validate(folder)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_tool_without_a_contract_is_refused(folder):
    (folder / "contracts" / "burn.yaml").unlink()
    with pytest.raises(BundleError, match="burn"):
        validate(folder)


def test_an_agent_of_a_provider_needs_no_key_to_be_checked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert validate(PROJECT / "agents" / "incident_triage").name == "incident_triage"
