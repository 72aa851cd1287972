"""The pages about evaluation say what there is, and their examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.lamp_agent import write_lamps

from mlflow_agent_plugin.development import FaultKind
from mlflow_agent_plugin.development.matching import CHECKS
from mlflow_agent_plugin.development.schemas import SCHEMAS, schema_text, write_schemas

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    DOCS / "concepts/evaluation.md",
    DOCS / "reference/suite.md",
    *(
        DOCS / "how-to" / f"{name}.md"
        for name in (
            "evaluate", "load-test", "pytest-suites", "score-with-mlflow", "suite-from-traces",
        )
    ),
]  # fmt: skip
FOREIGN = {"ModelSpec", "ModelPrice", "Budgets"}
"""Sections that agent-yaml.md describes."""


def test_the_how_to_runs_from_top_to_bottom(tmp_path, capsys):
    _follow("evaluate.md", tmp_path)
    assert "task_success 100.0%" in capsys.readouterr().out


@pytest.mark.integration
def test_the_page_about_mlflows_own_evaluation_runs(tmp_path):
    _follow("score-with-mlflow.md", tmp_path)


def _follow(page, tmp_path):
    text = (DOCS / "how-to" / page).read_text("utf-8")
    text = re.sub(r"<!-- not run: [^\n]*-->\n```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    write_lamps(tmp_path / "lamps")
    names: dict = {}
    for kind, file, body in re.findall(
        r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        if kind == "yaml":
            (tmp_path / file).write_text(body)
        elif kind == "python":
            exec(compile(body, page, "exec"), names)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_committed_schema_is_up_to_date(name):
    assert (DOCS / "reference/schemas" / name).read_text("utf-8") == schema_text(SCHEMAS[name]), (
        "run: python -m mlflow_agent_plugin.development.schemas docs/reference/schemas"
    )


def test_writing_schemas_creates_the_folder(tmp_path):
    write_schemas(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(SCHEMAS)


def test_every_field_fault_check_and_metric_is_in_the_reference():
    from mlflow_agent_plugin.trust.evidence import compute_metrics

    text = (DOCS / "reference/suite.md").read_text("utf-8")
    wanted = {*CHECKS, *(kind.value for kind in FaultKind), *compute_metrics([])}
    for model in SCHEMAS.values():
        schema = model.model_json_schema(by_alias=True)
        sections = {"": schema, **schema.get("$defs", {})}
        for name, section in sections.items():
            if name not in FOREIGN:
                wanted |= set(section.get("properties", {}))
    assert {
        name for name in wanted if f"`{name}`" not in text and f"`{{{name}:" not in text
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link
