"""What was checked, as pages that need nothing from anywhere: Great Expectations' Data Docs.

Rules:
- What is in the folder is replaced, when the report is begun. It goes there and nowhere else.
- Its pages are its makers' (one for each suite and each check), without what those load from public
  hosts: scripts, styles, fonts and pictures. The style is the project's own, in each page. A page
  that still named one would not load it: its policy (Content-Security-Policy) forbids everything.
- The first page is the project's own, because theirs is an empty table without those scripts. It
  shows by itself all that was expected and what failed: MLflow shows it in a frame, where links to
  other pages may lead nowhere.
- No page holds a text of the data: the checks keep none (result format BOOLEAN_ONLY).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.checking import Checked

STYLE = Path(__file__).with_suffix(".css")

_SITE = "pipeline"
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_DROPPED = re.compile(
    r"<(script|style|footer)\b.*?</\1\s*>|<(?:link|img|source|iframe)\b[^>]*>|"
    r"<meta http-equiv=[^>]*>|\son[a-z]+=\"[^\"]*\"",
    re.DOTALL | re.IGNORECASE,
)


def begin_data_docs(context: Any, docs: Path) -> Any:
    """Have `context` write its report into `docs`, and return the action that does it."""
    from great_expectations.checkpoint import UpdateDataDocsAction

    shutil.rmtree(docs, ignore_errors=True)
    docs.mkdir(parents=True)
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    backend = {
        "class_name": "TupleFilesystemStoreBackend",
        "base_directory": str(docs.absolute()),
    }
    context.add_data_docs_site(
        site_name=_SITE,
        site_config={
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": backend,
        },
    )
    return UpdateDataDocsAction(name="data_docs", site_names=[_SITE])


def finish_data_docs(docs: Path, done: Sequence[Checked]) -> None:
    """Make the pages whole by themselves, and write the first one.

    Args:
        docs: The folder.
        done: What was checked so far; doing it again after the next check changes no page twice.
    """
    style = f"{_POLICY}\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
    for page in docs.rglob("*.html"):
        text = _DROPPED.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", f"{style}</head>", 1), encoding="utf-8")
    # Styles, fonts and four megabytes of moving pictures, which no page names any more.
    shutil.rmtree(docs / "static", ignore_errors=True)
    body = "".join(_section(docs, checked) for checked in done)
    failed = sum(len(checked.failures) for checked in done)
    total = sum(checked.expectations for checked in done)
    said = (
        f'<p class="bad">{failed} of {total} expectations failed; nothing was trained.</p>'
        if failed
        else f'<p class="good">All {total} expectations hold.</p>'
    )
    (docs / "index.html").write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="UTF-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data Docs</title>\n{style}</head>\n<body>\n<main>\n<h1>Data Docs</h1>\n"
        f"{said}\n{body}</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _section(docs: Path, checked: Checked) -> str:
    name = checked.table.name
    pages = [("expectations", page) for page in docs.glob(f"expectations/{name}.html")]
    pages += [("this check", page) for page in docs.glob(f"validations/{name}/**/*.html")]
    links = ", ".join(
        f'<a href="{escape(page.relative_to(docs).as_posix())}">{text}</a>' for text, page in pages
    )
    rows = "".join(_row(each) for each in checked.expected)
    return (
        f"<h2>{escape(name)}</h2>\n"
        f"<p>{checked.rows} rows. In Great Expectations' own words: {links}.</p>\n"
        '<table>\n<tr><th>Status</th><th>Expectation</th><th>Because</th><th class="number">'
        f"Failed rows</th></tr>\n{rows}</table>\n"
    )


def _row(each: Any) -> str:
    failure = each.failure
    if failure is None:
        status, count = '<td class="status good">&#10003; holds</td>', ""
    else:
        status, count = '<td class="status bad">&#10007; failed</td>', str(failure.rows or "table")
        if failure.error is not None:
            count = "not evaluated"
    return (
        f"<tr>{status}<td><code>{escape(each.name)}</code></td><td>{escape(each.why)}</td>"
        f'<td class="number">{escape(count)}</td></tr>\n'
    )
