"""`check_drift`: measure a window against a reference, judge it, and draw the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_agent_plugin.errors import ConfigError, DriftInputError
from mlflow_agent_plugin.observability.drift.features import Comparison, compare, measure
from mlflow_agent_plugin.observability.drift.judging import judge
from mlflow_agent_plugin.observability.drift.verdict import (
    ColumnStatus,
    DriftRules,
    DriftVerdict,
    Window,
)
from mlflow_agent_plugin.observability.reference import load_reference

if TYPE_CHECKING:
    import pandas as pd

Engine = Literal["evidently", "plain"]
REPORT_FILE = "drift.html"
VERDICT_FILE = "drift.json"


def check_drift(
    reference: Any,
    current: Any,
    *,
    previous: DriftVerdict | None = None,
    rules: DriftRules | None = None,
    columns: Sequence[str] | None = None,
    report_dir: str | Path | None = None,
    engine: Engine = "evidently",
) -> DriftVerdict:
    """Compare a window of traffic with the reference of the version that served it.

    Args:
        reference: Monitoring rows: a data frame, an object with ``to_pandas()`` such as a
            `MonitoringTable`, a parquet file (`write_reference`), or where MLflow keeps one: the
            ``models:/…`` URI of an evaluated version, or ``runs:/<id>`` of its evaluation.
        current: The window's rows, likewise.
        previous: Verdict on the window before; without it nothing can be confirmed when the rules
            ask for more than one window.
        rules: Default: `DriftRules()`.
        columns: Which features to compare; None: all (see `features.FEATURES`).
        report_dir: Folder for ``drift.html`` (Evidently's report) and ``drift.json``.
        engine: "evidently", or "plain": the same tests without Evidently, for many small checks;
            it draws no report.

    Raises:
        DriftInputError: The data cannot be compared at all.
        ConfigError: A report was asked of the plain engine.
    """
    if engine == "plain" and report_dir is not None:
        raise ConfigError("only the evidently engine draws reports", where="check_drift(engine)")
    rules = rules or DriftRules()
    comparison = compare(_frame(reference), _frame(current), columns=columns)
    if engine == "plain":
        found = measure(comparison)
    else:
        from mlflow_agent_plugin.observability.drift.evidently_run import measure_with_evidently

        found = measure_with_evidently(comparison, rules)
    window = Window(
        reference=comparison.reference_digest,
        start=comparison.start,
        end=comparison.end,
        reference_sessions=len(comparison.reference),
        sessions=len(comparison.current),
        rows=comparison.rows,
    )
    verdict = judge(found, window=window, rules=rules, previous=previous)
    if report_dir is not None:
        verdict = _write_report(verdict, comparison, Path(report_dir))
    return verdict


def check_windows(
    reference: Any,
    traffic: Any,
    *,
    sessions: int | None = None,
    hours: float | None = None,
    rules: DriftRules | None = None,
    columns: Sequence[str] | None = None,
    engine: Engine = "plain",
    report_dir: str | Path | None = None,
) -> list[DriftVerdict]:
    """Cut `traffic` into windows in time order and check each, every verdict following the last.

    Args:
        reference: As for `check_drift`.
        traffic: Monitoring rows of all windows.
        sessions: Sessions per window; an incomplete last one is joined to the one before.
        rules: Default: `DriftRules()`.
        columns: Features to compare.
        engine: "plain" or "evidently".
        hours: Length of a window instead, counted from midnight UTC of the first row's day.
        report_dir: Folder for the last window's report, engine "evidently".

    Raises:
        ConfigError: Not exactly one of `sessions` and `hours` is given, or it is not positive.
        DriftInputError: As `check_drift`.
    """
    frame = _frame(traffic)
    start = _frame(reference)
    windows = list(_cut(frame, sessions, hours))
    verdicts: list[DriftVerdict] = []
    for number, window in enumerate(windows, start=1):
        last = number == len(windows)
        verdicts.append(
            check_drift(
                start,
                window,
                previous=verdicts[-1] if verdicts else None,
                rules=rules,
                columns=columns,
                engine="evidently" if last and report_dir is not None else engine,
                report_dir=report_dir if last else None,
            )
        )
    return verdicts


def _cut(frame: pd.DataFrame, sessions: int | None, hours: float | None) -> Iterator[pd.DataFrame]:
    import pandas as pd

    if (sessions is None) == (hours is None) or (sessions or hours or 0) <= 0:
        raise ConfigError("give either sessions or hours, above 0", where="check_windows")
    if frame.empty:
        return
    rows = frame.sort_values(["event_time", "trace_id"], kind="stable")
    if hours is not None:
        start = rows["event_time"].iloc[0].normalize()
        for _, group in rows.groupby((rows["event_time"] - start) // pd.Timedelta(hours=hours)):
            yield group
        return
    assert sessions is not None
    keys = ["tenant", "session_id"] if "tenant" in rows.columns else ["session_id"]
    # A session belongs to the window in which it began; later windows do not see it again.
    numbers = rows.groupby(keys, sort=False, dropna=False).ngroup()
    last = max(0, (int(numbers.max()) + 1) // sessions - 1)
    for _, group in rows.groupby((numbers // sessions).clip(upper=last)):
        yield group


def _frame(data: Any) -> pd.DataFrame:
    if isinstance(data, (str, Path)):
        return load_reference(data)
    if hasattr(data, "to_pandas"):
        data = data.to_pandas()
    if not hasattr(data, "columns"):
        raise DriftInputError(f"{type(data).__name__} is no table of monitoring rows")
    return data  # type: ignore[no-any-return]


def _write_report(verdict: DriftVerdict, comparison: Comparison, folder: Path) -> DriftVerdict:
    from mlflow_agent_plugin.observability.drift.page import verdict_html

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPORT_FILE
    verdict = replace(verdict, report=str(path))
    page = "<!doctype html><html><head><meta charset='utf-8'></head><body></body></html>"
    compared = [c for c in verdict.columns if c.p_value is not None]
    if compared:
        from mlflow_agent_plugin.observability.drift.evidently_run import (
            report_statuses,
            run_report,
        )

        names = {column.name for column in compared}
        features = [feature for feature in comparison.features if feature.name in names]
        failures: dict[str, str] = {}
        snapshot = run_report(
            comparison, features, verdict.rules, levels=_levels(verdict), failures=failures
        )
        said = report_statuses(snapshot)
        for column in compared:
            if failures or said.get(column.name) != (column.status is ColumnStatus.STANDS_OUT):
                raise DriftInputError(
                    "Evidently's report and the verdict disagree", where=column.name
                )
        temporary = folder / f".{REPORT_FILE}.tmp"
        snapshot.save_html(str(temporary))
        page = temporary.read_text(encoding="utf-8")
        temporary.unlink()
    head, body, rest = page.partition("<body")
    opening, bracket, rest = rest.partition(">")
    if not body or not bracket:
        raise DriftInputError("Evidently's report is no HTML page", where=str(path))
    path.write_text(
        head + body + opening + bracket + verdict_html(verdict) + rest, encoding="utf-8"
    )
    (folder / VERDICT_FILE).write_text(
        json.dumps(verdict.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    return verdict


def _levels(verdict: DriftVerdict) -> dict[str, float]:
    """Return the raw p-value at which each column's test fails, after Benjamini-Hochberg.

    A column that is not significant has a raw p-value above alpha / columns: that level passes it.
    """
    compared = [column for column in verdict.columns if column.p_value is not None]
    passing = verdict.rules.alpha / max(1, len(compared))
    significant = {
        column.name: column.p_value or 0.0
        for column in compared
        if column.adjusted_p is not None and column.adjusted_p <= verdict.rules.alpha
    }
    return {
        column.name: max(passing, significant[column.name])
        if column.name in significant
        else passing
        for column in compared
    }
