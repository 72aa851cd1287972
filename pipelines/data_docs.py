"""Great Expectations' own report (Data Docs) of what was checked, as pages in a folder.

Rules:
- What is in the folder is replaced, when the report is begun.
- The report goes there and nowhere else, and holds no text of the data: what it shows is what the
  checks kept (result format BOOLEAN_ONLY).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

_SITE = "pipeline"


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


def finish_data_docs(docs: Path) -> None:
    """Remove what the report shows nowhere: four megabytes of moving pictures and fonts."""
    for name in ("fonts", "images"):
        shutil.rmtree(docs / "static" / name, ignore_errors=True)
