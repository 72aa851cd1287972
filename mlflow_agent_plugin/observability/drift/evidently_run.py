"""Evidently runs the tests and draws the report; its result objects are what the verdict reads.

Two passes over the same columns. The first, at the nominal level, yields the p-values and effects
from `Snapshot.dict()["metrics"]`. When the rules have turned them into a verdict, the second draws
the report with the level that Benjamini-Hochberg left, so that each test on the page passes or
fails exactly as the verdict says; `report_statuses` reads that back from the snapshot's tests.

Importing Evidently takes seconds and a report hundreds of megabytes at a million rows: run this in
a process of its own, never where requests are served.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.drift.features import (
    EFFECTS,
    TESTS,
    Comparison,
    Feature,
    evidence,
    testable,
)
from mlflow_agent_plugin.observability.drift.verdict import ColumnEvidence, DriftRules

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

_PREFIX = "agents_"
_EFFECT = f"{_PREFIX}effect"
_FAILED = -1.0


def measure_with_evidently(comparison: Comparison, rules: DriftRules) -> list[ColumnEvidence]:
    """Run every test through Evidently; a test that fails is evidence of its own."""
    features = [feature for feature in comparison.features if testable(comparison, feature)]
    found: dict[tuple[str, str], float] = {}
    failures: dict[str, str] = {}
    if features:
        snapshot = run_report(comparison, features, rules, levels={}, failures=failures)
        for metric in snapshot.dict()["metrics"]:
            found[metric["config"]["column"], metric["config"]["method"]] = float(metric["value"])
    results: list[ColumnEvidence] = []
    for feature in comparison.features:
        result: tuple[float, float] | str | None = None
        if feature in features:
            p_value = found.get((feature.name, _PREFIX + feature.test))
            effect = found.get((feature.name, _EFFECT))
            if feature.name in failures:
                result = failures[feature.name]
            elif p_value is None or effect is None:
                result = "Evidently gave no result"
            else:
                result = (p_value, effect)
        results.append(evidence(comparison, feature, result))
    return results


def run_report(
    comparison: Comparison,
    features: Sequence[Feature],
    rules: DriftRules,
    *,
    levels: dict[str, float],
    failures: dict[str, str],
) -> Snapshot:
    """Run Evidently over `features` and return its snapshot.

    Args:
        comparison: The two samples.
        features: Columns to test, each of them testable.
        rules: Where the nominal level and the effect floor come from.
        levels: Column name to the p-value at which its test fails; default: the rules' alpha.
        failures: Filled with column name to the kind of error its test raised.

    Raises:
        DriftInputError: Evidently could not run at all.
    """
    # Evidently's usage statistics would be network traffic nobody asked for.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    _register(failures)
    names = {
        kind: [feature.name for feature in features if feature.kind == kind]
        for kind in ("numerical", "categorical")
    }
    definition = DataDefinition(
        numerical_columns=names["numerical"], categorical_columns=names["categorical"]
    )
    wanted = [feature.name for feature in features]
    metrics: list[Any] = []
    for feature in features:
        level = levels.get(feature.name, rules.alpha)
        metrics.append(
            ValueDrift(column=feature.name, method=_PREFIX + feature.test, threshold=level)
        )
        metrics.append(
            ValueDrift(column=feature.name, method=_EFFECT, threshold=rules.effect_floor)
        )
    try:
        return Report(metrics, include_tests=True).run(
            Dataset.from_pandas(comparison.current[wanted], data_definition=definition),
            Dataset.from_pandas(comparison.reference[wanted], data_definition=definition),
        )
    except Exception as error:
        raise DriftInputError(f"Evidently cannot compare these data: {error}") from error


def report_statuses(snapshot: Snapshot) -> dict[str, bool]:
    """Return, per column, whether both of its tests failed: what the report calls drift."""
    failed: dict[str, list[bool]] = {}
    for test in snapshot.dict()["tests"]:
        column = test["metric_config"]["params"]["column"]
        failed.setdefault(column, []).append(test["status"] == "FAIL")
    return {column: len(results) == 2 and all(results) for column, results in failed.items()}


def _register(failures: dict[str, str]) -> None:
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    for name, function in TESTS.items():
        register_stattest(
            StatTest(_PREFIX + name, f"{name.replace('_', ' ')} p-value", kinds),
            _guarded(function, failures, smaller_is_drift=True),
        )
    register_stattest(
        StatTest(_EFFECT, "PSI without its sampling noise", kinds, 0.01),
        _guarded(None, failures, smaller_is_drift=False),
    )


def _guarded(
    function: Callable[[Any, Any], float] | None,
    failures: dict[str, str],
    *,
    smaller_is_drift: bool,
) -> Callable[..., tuple[float, bool]]:
    """Wrap a test for Evidently: one that raises must not take the other columns with it."""

    def run(reference: Any, current: Any, kind: Any, threshold: float) -> tuple[float, bool]:
        try:
            chosen = function or EFFECTS["categorical" if kind.value == "cat" else "numerical"]
            score = chosen(reference.to_numpy(), current.to_numpy())
        except Exception as error:
            failures[str(reference.name)] = type(error).__name__
            return _FAILED, False
        return score, score <= threshold if smaller_is_drift else score >= threshold

    return run
