"""Drift: does a window of traffic still look like what the version was evaluated on?

    verdict = check_drift("reference.parquet", table, previous=last, report_dir="build/drift")

`judging` holds the rules (pure), `features` and `statistics` the measurements, `evidently_run` lets
Evidently run them and draw the report, and `check` joins them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "ColumnEvidence": "mlflow_agent_plugin.observability.drift.verdict",
    "ColumnStatus": "mlflow_agent_plugin.observability.drift.verdict",
    "DriftRules": "mlflow_agent_plugin.observability.drift.verdict",
    "DriftVerdict": "mlflow_agent_plugin.observability.drift.verdict",
    "check_drift": "mlflow_agent_plugin.observability.drift.check",
    "check_windows": "mlflow_agent_plugin.observability.drift.check",
    "judge": "mlflow_agent_plugin.observability.drift.judging",
    "last_verdict": "mlflow_agent_plugin.observability.drift.tracking",
    "log_drift": "mlflow_agent_plugin.observability.drift.tracking",
}

__all__ = [
    "ColumnEvidence",
    "ColumnStatus",
    "DriftRules",
    "DriftVerdict",
    "check_drift",
    "check_windows",
    "judge",
    "last_verdict",
    "log_drift",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.drift.check import check_drift, check_windows
    from mlflow_agent_plugin.observability.drift.judging import judge
    from mlflow_agent_plugin.observability.drift.tracking import last_verdict, log_drift
    from mlflow_agent_plugin.observability.drift.verdict import (
        ColumnEvidence,
        ColumnStatus,
        DriftRules,
        DriftVerdict,
    )


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion in notebooks."""
    return sorted(set(globals()) | set(_LAZY))
