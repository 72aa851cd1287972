"""Stage 2: Great Expectations checks the dataset before anything is trained on it.

Rules:
- The expectations are data: ``pipelines/expectations/requests.json``.
- A failed expectation stops the pipeline. The message names it, with the rows that failed, their
  texts masked and cut; nothing else of the data leaves the process (result format BOOLEAN_ONLY).
- An expectation that could not be evaluated has failed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE
from mlflow_agent_plugin.observability.masking import mask_text
from mlflow_agent_plugin.package import read_manifest, read_yaml
from pipelines.ingest import COLUMNS, REQUESTS_FILE
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    import pandas as pd

SUITE = Path(__file__).parent / "expectations" / "requests.json"
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
    """

    expectation: str
    rows: int = 0
    examples: tuple[str, ...] = ()
    error: str | None = None

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
    failures, count = check(frame, known_labels(Path(params.agent)))
    if failures:
        # Written only when good: what comes after must not find it.
        lines = "\n  ".join(str(failure) for failure in failures)
        raise DataError(
            f"{len(failures)} of {count} expectations failed; nothing was trained. "
            f"Correct or remove the rows and run the pipeline again:\n  {lines}",
            where=str(file),
        )
    write_json(
        params.result("validation"),
        {"expectations": count, "failures": [asdict(f) for f in failures], "rows": len(frame)},
    )
    return f"{count} expectations hold on {len(frame)} rows"


def check(frame: pd.DataFrame, labels: list[str]) -> tuple[list[Failure], int]:
    """Return the failed expectations and how many there are.

    Args:
        frame: The dataset; empty strings count as missing.
        labels: What a label may be.
    """
    # Great Expectations would otherwise report its use to its makers.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    rows = frame.replace({"": None}).reset_index(drop=True)
    rows["_row"] = range(len(rows))
    context = gx.get_context(mode="ephemeral")
    # Its progress bars would fill the pipeline's log.
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("pipeline")
        .add_dataframe_asset("requests")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": rows})
    )
    suite = gx.ExpectationSuite(**_read_suite())
    parameters = {"labels": labels, "columns": [*COLUMNS, "_row"]}
    result = batch.validate(suite, result_format="BOOLEAN_ONLY", expectation_parameters=parameters)
    failures = []
    for item in result.results:
        if item.success:
            continue
        config = item.expectation_config
        failures.append(_describe(batch, config, rows, parameters, item.exception_info))
    return failures, len(result.results)


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

    again = batch.validate(
        gx.ExpectationSuite(name="one", expectations=[config.to_domain_obj()]),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["_row"]},
        expectation_parameters=parameters,
    )
    found = again.results[0].result.get("unexpected_index_list") or []
    numbers = [int(entry["_row"]) for entry in found]
    examples = []
    for number in numbers[:_SHOWN_ROWS]:
        row = rows.iloc[number]
        shown = _shorten(row.get("text"))
        value = "" if column in (None, "text") else f" {column}={_shorten(row.get(column))}"
        examples.append(f"{row.get('source')} row {row.get('row')}{value} text={shown}")
    return Failure(name, len(numbers), tuple(examples))


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
