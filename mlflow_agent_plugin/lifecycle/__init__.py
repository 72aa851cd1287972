"""From signals to a candidate: when to retrain, one pipeline at a time, labels, and the way back.

    decision = decide(policy, signals)
    if decision.fire:
        retrain(decision, project=".", model_name="support")

An agent or a trigger may propose; only a reviewer promotes: the pipeline ends with a promotion
request, never with a promotion.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "RetrainResult": "mlflow_agent_plugin.lifecycle.retraining",
    "ReviewFeedback": "mlflow_agent_plugin.lifecycle.reviews",
    "Signals": "mlflow_agent_plugin.lifecycle.triggers",
    "TriggerDecision": "mlflow_agent_plugin.lifecycle.triggers",
    "TriggerPolicy": "mlflow_agent_plugin.lifecycle.triggers",
    "choose_for_labelling": "mlflow_agent_plugin.lifecycle.selection",
    "collect_feedback": "mlflow_agent_plugin.lifecycle.labels",
    "collect_labels": "mlflow_agent_plugin.lifecycle.labels",
    "collect_remarks": "mlflow_agent_plugin.lifecycle.remarks",
    "correct_request": "mlflow_agent_plugin.lifecycle.feedback",
    "decide": "mlflow_agent_plugin.lifecycle.triggers",
    "give_thumb": "mlflow_agent_plugin.lifecycle.feedback",
    "load_policy": "mlflow_agent_plugin.lifecycle.triggers",
    "look_at_environment": "mlflow_agent_plugin.lifecycle.environment",
    "log_reviews": "mlflow_agent_plugin.lifecycle.reviews",
    "model_lease": "mlflow_agent_plugin.lifecycle.lease",
    "pipeline_lease": "mlflow_agent_plugin.lifecycle.lease",
    "retrain": "mlflow_agent_plugin.lifecycle.retraining",
    "roll_back": "mlflow_agent_plugin.lifecycle.rollback",
    "run_trigger": "mlflow_agent_plugin.lifecycle.retraining",
    "write_labels": "mlflow_agent_plugin.lifecycle.labels",
}

__all__ = [
    "RetrainResult",
    "ReviewFeedback",
    "Signals",
    "TriggerDecision",
    "TriggerPolicy",
    "choose_for_labelling",
    "collect_feedback",
    "collect_labels",
    "collect_remarks",
    "correct_request",
    "decide",
    "give_thumb",
    "load_policy",
    "log_reviews",
    "look_at_environment",
    "model_lease",
    "pipeline_lease",
    "retrain",
    "roll_back",
    "run_trigger",
    "write_labels",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.lifecycle.environment import look_at_environment
    from mlflow_agent_plugin.lifecycle.feedback import correct_request, give_thumb
    from mlflow_agent_plugin.lifecycle.labels import (
        collect_feedback,
        collect_labels,
        write_labels,
    )
    from mlflow_agent_plugin.lifecycle.lease import model_lease, pipeline_lease
    from mlflow_agent_plugin.lifecycle.remarks import collect_remarks
    from mlflow_agent_plugin.lifecycle.retraining import RetrainResult, retrain, run_trigger
    from mlflow_agent_plugin.lifecycle.reviews import ReviewFeedback, log_reviews
    from mlflow_agent_plugin.lifecycle.rollback import roll_back
    from mlflow_agent_plugin.lifecycle.selection import choose_for_labelling
    from mlflow_agent_plugin.lifecycle.triggers import (
        Signals,
        TriggerDecision,
        TriggerPolicy,
        decide,
        load_policy,
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
