"""What the documentation shows is run, and what it points to is there."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from helpers.pages import ROOT, blocks, name_of, pages

RUN_BY_ITS_ROOM = {
    "docs/concepts/approvals.md": "tests/trust/test_docs.py",
    "docs/concepts/audit.md": "tests/trust/test_docs.py",
    "docs/concepts/support-agent.md": "tests/agents/test_support_docs.py",
    "docs/how-to/evaluate.md": "tests/development/test_docs.py",
    "docs/how-to/score-with-mlflow.md": "tests/development/test_docs.py",
    "docs/how-to/review-and-promote.md": "tests/registry/test_docs.py",
    "docs/how-to/serve.md": "tests/docs/test_serving_pages.py",
    "docs/how-to/write-a-policy.md": "tests/trust/policy/test_docs.py",
    "docs/reference/store.md": "tests/trust/test_docs.py",
}
"""Pages whose examples another test runs, in a world of its own."""

SURROUNDINGS = {"README.md": "stand_ins", "agents/README.md": "stand_ins"}
"""Fixture a page's examples need; default: the repository's own agents."""

PAGES = {name_of(page): page for page in pages()}
RUN_HERE = [
    name
    for name, page in PAGES.items()
    if name not in RUN_BY_ITS_ROOM and any(block.is_run for block in blocks(page))
]


@pytest.mark.parametrize("name", RUN_HERE)
def test_the_examples_of_a_page_run_and_print_what_it_promises(name, desk, request, given):
    request.getfixturevalue(SURROUNDINGS.get(name, "repository"))
    desk.names.update(given(name))
    for block in blocks(PAGES[name]):
        if block.is_run:
            desk.follow(block)


@pytest.fixture
def given():
    """Return a function that makes what a page's examples take for granted."""

    def policies():
        from mlflow_agent_plugin.entities import Actor, PolicyRequest

        session = {"environment": "production", "calls": 1, "turn": 1, "untrusted_seen": False}
        customer = Actor("amira", roles=frozenset({"customer"}), verified=True)
        call = {"tool": "list_cards", "arguments": {}, "session": {**session, "now": 1}}
        return {"request": PolicyRequest(actor=customer, agent="support", **call)}

    def monitoring():
        import mlflow

        mlflow.create_experiment("traffic")
        return {}

    makers = {"docs/concepts/policies.md": policies, "docs/concepts/monitoring.md": monitoring}
    return lambda name: makers.get(name, dict)()


@pytest.mark.parametrize(("name", "test"), RUN_BY_ITS_ROOM.items())
def test_a_page_its_room_runs_is_named_in_that_test(name, test):
    assert any(block.is_run for block in blocks(PAGES[name])), "nothing of it is run any more"
    assert name.rpartition("/")[2] in (ROOT / test).read_text("utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_python_are_marked_as_what_they_are(name):
    """A command in a block without language would be run by nobody."""
    text = PAGES[name].read_text("utf-8")
    for language, body in re.findall(
        r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    ):
        if language != "console":
            assert not re.search(r"^ *\$ ", body, re.MULTILINE), body
        assert language not in ("bash", "sh", "shell", "py"), f"write console or python: {body}"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_picture_leads_somewhere(name):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[name].read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = PAGES[name] if not path else PAGES[name].parent / path
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in _anchors(found.read_text("utf-8")), target


def _anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_the_index_names_every_page():
    index = PAGES["docs/README.md"].read_text("utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)", index))
    for name in PAGES:
        if name.startswith("docs/") and name != "docs/README.md":
            assert name.removeprefix("docs/") in linked, name
