"""The pages about store, approvals and audit say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlflow_agent_plugin.store.tables import REVISIONS, VERSION_TABLE, metadata
from mlflow_agent_plugin.trust import ClaimStatus, KeyPurpose

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "concepts/approvals.md",
    "concepts/audit.md",
    "concepts/identity.md",
    "reference/store.md",
]


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # noqa: S102
    if "store" in names:
        names["store"].close()
    for promised in re.findall(r"print\(verify_audit\(store\)\)  # (.*)", text(page)):
        assert promised in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text(page)):
        if "://" not in link:
            assert ((DOCS / page).parent / link).exists(), link


def test_the_reference_names_every_table_and_revision():
    page = text("reference/store.md")
    for name in (*metadata.tables, VERSION_TABLE, *REVISIONS):
        assert f"| `{name}` |" in page


def test_the_pages_name_every_purpose_and_status():
    for purpose in KeyPurpose:
        assert f"`trusted/{purpose.value}/*.pem`" in text("concepts/audit.md")
    for status in ClaimStatus:
        assert f"| `{status.value}` |" in text("concepts/approvals.md")
