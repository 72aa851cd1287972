"""Stage 2: Great Expectations checks the dataset before anything is trained on it.

Rules:
- The expectations are data: ``pipelines/expectations/requests.json``.
- A failed expectation stops the pipeline. The message names it, with the rows that failed, their
  texts masked and cut; nothing else of the data leaves the process (result format BOOLEAN_ONLY).
- An expectation that could not be evaluated has failed.
- Great Expectations' own report (Data Docs) and all failed rows, masked, go to ``build/data_docs``
  whether the data is good or not; the pipeline's MLflow run keeps them.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE
from mlflow_agent_plugin.package import read_manifest, read_yaml
from pipelines.ingest import COLUMNS, REQUESTS_FILE
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    import pandas as pd

SUITE = Path(__file__).parent / "expectations" / "requests.json"
FAILED_ROWS_FILE = "failed_rows.csv"
MAX_FAILED_ROWS = 10_000
"""Rows of one expectation that are listed."""

_SHOWN_ROWS = 5
_SHOWN_CHARS = 60


@dataclass(frozen=True)
class Failure:
    """One failed expectation.

    Attributes:
        expectation: Its type and column.
        rows: How many rows failed; 0 if it is about the whole table.
        examples: Some of them: source, row and masked text.
        error: Why it could not be evaluated, None if it could.
        listed: The failed rows: source, row, value and text, the last two masked and cut.
    """

    expectation: str
    rows: int = 0
    examples: tuple[str, ...] = ()
    error: str | None = None
    listed: tuple[tuple[str, str, str, str], ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without the list of rows."""
        return {key: value for key, value in asdict(self).items() if key != "listed"}

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.expectation} could not be evaluated: {self.error}"
        if not self.rows:
            return self.expectation
        shown = "; ".join(self.examples)
        return f"{self.expectation}: {self.rows} rows, e.g. {shown}"


def validate(params: Params) -> str:
    """Check the dataset against its expectations."""
    import pandas as pd

    file = params.dataset / REQUESTS_FILE
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from error
    docs = params.data_docs
    failures, count = check(frame, known_labels(Path(params.agent)), docs=docs)
    _write_failed_rows(failures, docs / FAILED_ROWS_FILE)
    if failures:
        # Written only when good: what comes after must not find it.
        lines = "\n  ".join(str(failure) for failure in failures)
        raise DataError(
            f"{len(failures)} of {count} expectations failed; nothing was trained. "
            f"Correct or remove the rows (all of them are listed in {docs / FAILED_ROWS_FILE}) "
            f"and run the pipeline again:\n  {lines}",
            where=str(file),
        )
    write_json(
        params.result("validation"),
        {"expectations": count, "failures": [f.to_dict() for f in failures], "rows": len(frame)},
    )
    return f"{count} expectations hold on {len(frame)} rows"


def check(
    frame: pd.DataFrame, labels: list[str], *, docs: Path | None = None
) -> tuple[list[Failure], int]:
    """Return the failed expectations and how many there are.

    Args:
        frame: The dataset; empty strings count as missing.
        labels: What a label may be.
        docs: Folder for Data Docs; what is in it is replaced.
    """
    gx = _great_expectations()
    rows = frame.replace({"": None}).reset_index(drop=True)
    rows["_row"] = range(len(rows))
    context = gx.get_context(mode="ephemeral")
    # Its progress bars would fill the pipeline's log.
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    definition = (
        context.data_sources.add_pandas("pipeline")
        .add_dataframe_asset("requests")
        .add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite(**_read_suite()))
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name="requests", data=definition, suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name="pipeline",
        validation_definitions=[validation],
        actions=[] if docs is None else [_document(context, docs)],
        result_format="BOOLEAN_ONLY",
    )
    parameters = {"labels": labels, "columns": [*COLUMNS, "_row"]}
    done = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": rows}, expectation_parameters=parameters
    )
    (result,) = done.run_results.values()
    if docs is not None:
        _shrink(docs)
    batch = definition.get_batch({"dataframe": rows})
    failures = []
    for item in result.results:
        if item.success:
            continue
        config = item.expectation_config
        failures.append(_describe(batch, config, rows, parameters, item.exception_info))
    return failures, len(result.results)


def _great_expectations() -> Any:
    # It would otherwise report its use to its makers.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # It imports PySpark where that is installed, and PySpark 4 ends the process, without an error,
    # where the main module has neither file nor spec (`python -c`): it takes that for its doctests.
    main = sys.modules["__main__"]
    bare = main.__spec__ is None and not hasattr(main, "__file__")
    if bare:
        main.__file__ = "-c"
    try:
        import great_expectations
    finally:
        if bare:
            del main.__file__
    return great_expectations


def _document(context: Any, docs: Path) -> Any:
    """Have the context write its report into `docs`, and nowhere else."""
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
        site_name="pipeline",
        site_config={
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": backend,
        },
    )
    return UpdateDataDocsAction(name="data_docs", site_names=["pipeline"])


def _shrink(docs: Path) -> None:
    """Remove what the report shows nowhere: four megabytes of moving pictures and fonts."""
    for name in ("fonts", "images"):
        shutil.rmtree(docs / "static" / name, ignore_errors=True)


def _write_failed_rows(failures: Sequence[Failure], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["expectation", "source", "row", "value", "text"])
        for failure in failures:
            writer.writerows([failure.expectation, *row] for row in failure.listed)


def known_labels(agent: Path) -> list[str]:
    """Return the intents the agent's playbook has a plan for, and out of scope.

    Raises:
        BundleError: Manifest or playbook cannot be read.
    """
    manifest, _ = read_manifest(agent)
    path = agent / (manifest.model.path or "model") / "playbook.yaml"
    intents = read_yaml(path).data.get("intents", {})
    return sorted({*intents, OUT_OF_SCOPE})


def _describe(
    batch: Any, config: Any, rows: pd.DataFrame, parameters: dict[str, Any], raised: Any
) -> Failure:
    column = config.kwargs.get("column")
    name = f"{config.type}({column})" if column else str(config.type)
    error = _exception(raised)
    if error is not None:
        return Failure(name, error=error)
    # Which rows: asked for separately, because that answer holds raw values. Only row numbers of
    # it are kept.
    import great_expectations as gx

    alone = config.to_domain_obj()
    alone.id = None  # it belongs to the other suite
    again = batch.validate(
        gx.ExpectationSuite(name="one", expectations=[alone]),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["_row"]},
        expectation_parameters=parameters,
    )
    found = again.results[0].result.get("unexpected_index_list") or []
    numbers = [int(entry["_row"]) for entry in found]
    listed = []
    for number in numbers[:MAX_FAILED_ROWS]:
        row = rows.iloc[number]
        value = "" if column in (None, "text") else _shorten(row.get(column))
        place = _shorten(row.get("source")), _shorten(str(row.get("row")))
        listed.append((place[0].strip("'"), place[1].strip("'"), value, _shorten(row.get("text"))))
    examples = tuple(
        f"{source} row {row}{f' {column}={value}' if value else ''} text={text}"
        for source, row, value, text in listed[:_SHOWN_ROWS]
    )
    return Failure(name, len(numbers), examples, listed=tuple(listed))


def _shorten(value: Any) -> str:
    if not isinstance(value, str):
        return "(none)"
    masked = mask_text(value)
    return repr(masked if len(masked) <= _SHOWN_CHARS else masked[: _SHOWN_CHARS - 1] + "…")


def _exception(raised: Any) -> str | None:
    """Return the first exception message of a result, None if there is none."""
    if not isinstance(raised, dict):
        return None
    for info in (raised, *(part for part in raised.values() if isinstance(part, dict))):
        if info.get("raised_exception"):
            return str(info.get("exception_message", "unknown")).splitlines()[0][:200]
    return None


def _read_suite() -> dict[str, Any]:
    try:
        suite: dict[str, Any] = json.loads(SUITE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(SUITE)) from error
    return suite


main = stage(validate)

if __name__ == "__main__":
    main()
