"""Stage 2: what people said and the dataset are checked before anything is trained.

Rules:
- Two tables, two suites: the remarks as they came in (``expectations/remarks.json``), and the
  requests that would be trained on (``expectations/requests.json``). Both are always checked, so
  that one look shows all that is wrong.
- A failed expectation of either stops the pipeline. The message names it, with the rows that
  failed (`checking`).
- Great Expectations' own report (Data Docs) and all failed rows, masked, go to ``build/data_docs``
  whether the data is good or not; the pipeline's MLflow run keeps them.
- A result of its own for each table: another thumb is no reason to train again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS, RemarkKind
from mlflow_agent_plugin.package import read_manifest, read_yaml
from pipelines.checking import Checked, CheckedTable, Checker
from pipelines.ingest import COLUMNS, REQUESTS_FILE
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    import pandas as pd

REQUESTS = CheckedTable("requests", place=("source", "row"))
REMARKS = CheckedTable("remarks", place=("row", "trace_id", "kind", "by"))
FAILED_ROWS = {REQUESTS.name: "failed_rows.csv", REMARKS.name: "failed_remarks.csv"}
"""File with the failed rows, by table."""


def validate(params: Params) -> str:
    """Check what people said and the dataset against their expectations."""
    files = {REMARKS.name: params.remarks, REQUESTS.name: params.dataset / REQUESTS_FILE}
    tables = {name: _read(file) for name, file in files.items()}
    labels = known_labels(Path(params.agent))
    checker = Checker(params.data_docs)
    done = (
        check_remarks(checker, tables[REMARKS.name]),
        check_requests(checker, tables[REQUESTS.name], labels),
    )
    for checked in done:
        checked.write_failed_rows(params.data_docs / FAILED_ROWS[checked.table.name])
    _stop_at_failures(done, files, params.data_docs)
    # Written only when both are good: what comes after must not find it.
    remarks, requests = done
    write_json(params.result("remarks_validation"), remarks.to_dict())
    write_json(params.result("validation"), requests.to_dict())
    return " and ".join(
        f"{each.expectations} expectations hold on {each.rows} {each.table.name}" for each in done
    )


def check_requests(checker: Checker, frame: pd.DataFrame, labels: list[str]) -> Checked:
    """Check the dataset.

    Args:
        checker: Does it.
        frame: The dataset.
        labels: What a label may be.
    """
    return checker.check(REQUESTS, frame, {"labels": labels, "columns": list(COLUMNS)})


def check_remarks(checker: Checker, frame: pd.DataFrame) -> Checked:
    """Check what people said, whatever of it is trained on.

    Args:
        checker: Does it.
        frame: The remarks, as they came in.
    """
    numbered = frame.assign(row=[str(number) for number in range(len(frame))])
    kinds = [kind.value for kind in RemarkKind]
    return checker.check(REMARKS, numbered, {"kinds": kinds, "columns": [*REMARK_COLUMNS, "row"]})


def known_labels(agent: Path) -> list[str]:
    """Return the intents the agent's playbook has a plan for, and out of scope.

    Raises:
        BundleError: Manifest or playbook cannot be read.
    """
    manifest, _ = read_manifest(agent)
    path = agent / (manifest.model.path or "model") / "playbook.yaml"
    intents = read_yaml(path).data.get("intents", {})
    return sorted({*intents, OUT_OF_SCOPE})


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from error


def _stop_at_failures(done: tuple[Checked, ...], files: dict[str, Path], docs: Path) -> None:
    bad = [checked for checked in done if checked.failures]
    if not bad:
        return
    lines = [f"{each.table.name}: {failure}" for each in bad for failure in each.failures]
    lists = " and ".join(str(docs / FAILED_ROWS[each.table.name]) for each in bad)
    raise DataError(
        f"{len(lines)} of {sum(each.expectations for each in done)} expectations failed; nothing "
        f"was trained. Correct or remove the rows (all of them are listed in {lists}) and run the "
        "pipeline again:\n  " + "\n  ".join(lines),
        where=", ".join(str(files[each.table.name]) for each in bad),
    )


main = stage(validate)

if __name__ == "__main__":
    main()
