"""The registry: MLflow's own, with a gate before every name people load agents by.

    import mlflow_agent_plugin as agents

    agents.request_promotion("support", 3, to="Production")
    print(agents.gate_report("support", 3, to="Production"))

Names load when first used; importing this room loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "ApprovalOutcome": "mlflow_agent_plugin.registry.api",
    "approve": "mlflow_agent_plugin.registry.api",
    "comment": "mlflow_agent_plugin.registry.api",
    "emergency_promote": "mlflow_agent_plugin.registry.api",
    "gate_report": "mlflow_agent_plugin.registry.api",
    "history": "mlflow_agent_plugin.registry.api",
    "promote": "mlflow_agent_plugin.registry.api",
    "reject": "mlflow_agent_plugin.registry.api",
    "request_promotion": "mlflow_agent_plugin.registry.api",
    "retire": "mlflow_agent_plugin.registry.api",
    "revoke_evidence": "mlflow_agent_plugin.registry.api",
    "rollback": "mlflow_agent_plugin.registry.api",
    "set_rules": "mlflow_agent_plugin.registry.api",
    "submit_evidence": "mlflow_agent_plugin.registry.api",
    "withdraw": "mlflow_agent_plugin.registry.api",
    "verify_registry": "mlflow_agent_plugin.registry.inspection",
    "check_promotion": "mlflow_agent_plugin.registry.proof",
    "fetch_promoted": "mlflow_agent_plugin.registry.proof",
    "GateReport": "mlflow_agent_plugin.registry.report",
    "GateRules": "mlflow_agent_plugin.registry.rules",
    "HistoryEntry": "mlflow_agent_plugin.registry.records",
    "Slot": "mlflow_agent_plugin.package.slots",
    "parse_rules": "mlflow_agent_plugin.registry.rules",
}

__all__ = [
    "ApprovalOutcome",
    "GateReport",
    "GateRules",
    "HistoryEntry",
    "Slot",
    "approve",
    "check_promotion",
    "comment",
    "emergency_promote",
    "fetch_promoted",
    "gate_report",
    "history",
    "parse_rules",
    "promote",
    "reject",
    "request_promotion",
    "retire",
    "revoke_evidence",
    "rollback",
    "set_rules",
    "submit_evidence",
    "verify_registry",
    "withdraw",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.slots import Slot
    from mlflow_agent_plugin.registry.api import (
        ApprovalOutcome,
        approve,
        comment,
        emergency_promote,
        gate_report,
        history,
        promote,
        reject,
        request_promotion,
        retire,
        revoke_evidence,
        rollback,
        set_rules,
        submit_evidence,
        withdraw,
    )
    from mlflow_agent_plugin.registry.inspection import verify_registry
    from mlflow_agent_plugin.registry.proof import check_promotion, fetch_promoted
    from mlflow_agent_plugin.registry.records import HistoryEntry
    from mlflow_agent_plugin.registry.report import GateReport
    from mlflow_agent_plugin.registry.rules import GateRules, parse_rules


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted(set(globals()) | set(_LAZY))
