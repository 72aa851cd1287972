"""What traffic looked like: the monitoring table, its metrics, and drift.

    table = agents.monitoring_table(None, path="monitoring")
    verdict = agents.check_drift(reference, table)

Nothing here is on the serving path except `schema`, which makes a request's row.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "DriftVerdict": "mlflow_agent_plugin.observability.drift.verdict",
    "check_drift": "mlflow_agent_plugin.observability.drift",
    "compute_task_metrics": "mlflow_agent_plugin.observability.metrics",
    "compute_tool_metrics": "mlflow_agent_plugin.observability.metrics",
    "load_reference": "mlflow_agent_plugin.observability.reference",
    "log_drift": "mlflow_agent_plugin.observability.drift",
    "mask_text": "mlflow_agent_plugin.entities.sensitive",
    "monitoring_table": "mlflow_agent_plugin.observability.table",
    "read_steps": "mlflow_agent_plugin.observability.table",
    "read_table": "mlflow_agent_plugin.observability.table",
    "row_from_reply": "mlflow_agent_plugin.observability.schema",
    "sessions_on_spark": "mlflow_agent_plugin.observability.spark",
    "summary_from_row": "mlflow_agent_plugin.observability.schema",
    "violations_by_kind": "mlflow_agent_plugin.observability.metrics",
    "write_reference": "mlflow_agent_plugin.observability.schema",
}

__all__ = [
    "DriftVerdict",
    "check_drift",
    "compute_task_metrics",
    "compute_tool_metrics",
    "load_reference",
    "log_drift",
    "mask_text",
    "monitoring_table",
    "read_steps",
    "read_table",
    "row_from_reply",
    "sessions_on_spark",
    "summary_from_row",
    "violations_by_kind",
    "write_reference",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities.sensitive import mask_text
    from mlflow_agent_plugin.observability.drift import check_drift, log_drift
    from mlflow_agent_plugin.observability.drift.verdict import DriftVerdict
    from mlflow_agent_plugin.observability.metrics import (
        compute_task_metrics,
        compute_tool_metrics,
        violations_by_kind,
    )
    from mlflow_agent_plugin.observability.reference import load_reference
    from mlflow_agent_plugin.observability.schema import (
        row_from_reply,
        summary_from_row,
        write_reference,
    )
    from mlflow_agent_plugin.observability.spark import sessions_on_spark
    from mlflow_agent_plugin.observability.table import monitoring_table, read_steps, read_table


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
