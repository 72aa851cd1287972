"""Checks tables against suites of expectations, by Great Expectations.

Rules:
- The expectations are data: ``pipelines/expectations/``, a suite for each table.
- An expectation that could not be evaluated has failed.
- A failure names its rows, by number and by what tells them apart, their texts masked and cut;
  nothing else of the data leaves the process (result format BOOLEAN_ONLY).
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError
from pipelines.data_docs import begin_data_docs, finish_data_docs

if TYPE_CHECKING:
    import pandas as pd

SUITES = Path(__file__).parent / "expectations"
MAX_FAILED_ROWS = 10_000
"""Rows of one expectation that are listed."""

_SHOWN_ROWS = 5
_SHOWN_CHARS = 60
_NUMBER = "_row"
_TRACE_ID = re.compile(r"tr-[0-9a-f]{32}")


@dataclass(frozen=True)
class CheckedTable:
    """A table there is a suite for.

    Attributes:
        name: Of the table and its suite.
        place: Columns that tell somebody where a row is from.
    """

    name: str
    place: tuple[str, ...]

    @property
    def suite(self) -> Path:
        """The file of its expectations."""
        return SUITES / f"{self.name}.json"


@dataclass(frozen=True)
class Failure:
    """One failed expectation.

    Attributes:
        expectation: Its type, column, and the rows it is about if not all.
        rows: How many rows failed; 0 if it is about the whole table.
        examples: Some of them: where they are from and masked text.
        error: Why it could not be evaluated, None if it could.
        listed: The failed rows: where from, value and text, masked and cut.
    """

    expectation: str
    rows: int = 0
    examples: tuple[str, ...] = ()
    error: str | None = None
    listed: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

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


@dataclass(frozen=True)
class Expected:
    """One expectation, and what came of it.

    Attributes:
        name: Its type, column, and the rows it is about if not all.
        why: Why it is expected.
        failure: None if it holds.
    """

    name: str
    why: str
    failure: Failure | None


@dataclass(frozen=True)
class Checked:
    """What came of a table.

    Attributes:
        expected: Every expectation.
        rows: Of the table.
    """

    table: CheckedTable
    expected: tuple[Expected, ...]
    rows: int

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The failed expectations."""
        return tuple(each.failure for each in self.expected if each.failure is not None)

    @property
    def expectations(self) -> int:
        """How many there are."""
        return len(self.expected)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "expectations": self.expectations,
            "failures": [failure.to_dict() for failure in self.failures],
            "rows": self.rows,
        }

    def write_failed_rows(self, path: Path) -> None:
        """List the failed rows in a CSV file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["expectation", *self.table.place, "value", "text"])
            for failure in self.failures:
                writer.writerows([failure.expectation, *row] for row in failure.listed)


class Checker:
    """Checks tables; each comes into the same report.

    Args:
        docs: Folder for Data Docs; what is in it is replaced. None: no report.
    """

    def __init__(self, docs: Path | None = None) -> None:
        self._gx = _great_expectations()
        self._context = self._gx.get_context(mode="ephemeral")
        # Its progress bars would fill the pipeline's log.
        self._context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        self._source = self._context.data_sources.add_pandas("pipeline")
        self._docs = docs
        self._actions = [] if docs is None else [begin_data_docs(self._context, docs)]
        self._done: list[Checked] = []

    def check(
        self, table: CheckedTable, frame: pd.DataFrame, parameters: Mapping[str, Any]
    ) -> Checked:
        """Return which expectations fail.

        Args:
            table: Which table it is; once per checker.
            frame: The table; empty strings count as missing.
            parameters: What the suite's expectations ask for by name, but for ``columns``: those
                the table should have.

        Raises:
            DataError: There is no such suite.
        """
        gx, context = self._gx, self._context
        rows = frame.replace({"": None}).reset_index(drop=True)
        rows[_NUMBER] = range(len(rows))
        given = {**parameters, "columns": [*parameters["columns"], _NUMBER]}
        definition = self._source.add_dataframe_asset(
            table.name
        ).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(**_read_suite(table.suite)))
        validation = context.validation_definitions.add(
            gx.ValidationDefinition(name=table.name, data=definition, suite=suite)
        )
        checkpoint = gx.Checkpoint(
            name=table.name,
            validation_definitions=[validation],
            actions=self._actions,
            result_format="BOOLEAN_ONLY",
        )
        done = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": rows}, expectation_parameters=given
        )
        (result,) = done.run_results.values()
        batch = definition.get_batch({"dataframe": rows})
        expected = []
        for item in result.results:
            failure = None if item.success else _describe(table, batch, item, rows, given)
            why = str((item.expectation_config.meta or {}).get("why", ""))
            expected.append(Expected(_name(item.expectation_config), why, failure))
        checked = Checked(table, tuple(expected), len(rows))
        self._done.append(checked)
        if self._docs is not None:
            finish_data_docs(self._docs, self._done)
        return checked


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


def _describe(
    table: CheckedTable, batch: Any, item: Any, rows: pd.DataFrame, parameters: dict[str, Any]
) -> Failure:
    config = item.expectation_config
    name = _name(config)
    error = _exception(item.exception_info)
    if error is not None:
        return Failure(name, error=error)
    # Which rows: asked for separately, because that answer holds raw values. Only row numbers of
    # it are kept.
    import great_expectations as gx

    alone = config.to_domain_obj()
    alone.id = None  # it belongs to the other suite
    again = batch.validate(
        gx.ExpectationSuite(name="one", expectations=[alone]),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [_NUMBER]},
        expectation_parameters=parameters,
    )
    found = again.results[0].result.get("unexpected_index_list") or []
    numbers = [int(entry[_NUMBER]) for entry in found]
    column = config.kwargs.get("column")
    listed = []
    for number in numbers[:MAX_FAILED_ROWS]:
        row = rows.iloc[number]
        value = "" if column in (None, "text", *table.place) else _shorten(row.get(column))
        place = [_place(row.get(part)) for part in table.place]
        listed.append((*place, value, _shorten(row.get("text"))))
    examples = tuple(_example(table, column, row) for row in listed[:_SHOWN_ROWS])
    return Failure(name, len(numbers), examples, listed=tuple(listed))


def _name(config: Any) -> str:
    about = config.kwargs.get("column") or ", ".join(config.kwargs.get("column_list") or ())
    condition = config.kwargs.get("row_condition")
    if isinstance(condition, Mapping):
        condition = condition.get("pass_through_filter")
    if condition:
        about = f"{about} where {condition}"
    return f"{config.type}({about})" if about else str(config.type)


def _example(table: CheckedTable, column: str | None, row: Sequence[str]) -> str:
    *place, value, text = row
    where = " ".join(f"{name} {part}" for name, part in zip(table.place, place, strict=True))
    shown = f" {column}={value}" if value else ""
    return f"{where}{shown} text={text}"


def _place(value: Any) -> str:
    # A trace's id is not anybody's number, and what the row is found by.
    text = str(value)
    return text if _TRACE_ID.fullmatch(text) else _shorten(text).strip("'")


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


def _read_suite(path: Path) -> dict[str, Any]:
    try:
        suite: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    return suite
