"""Rollouts: a promoted candidate beside the incumbent, until the numbers decide.

    rollout = start_rollout("support", RolloutPlan(share=0.1), by=actor, book=RolloutBook(store))

- `rollout.plan`: what a rollout is and which sessions it takes; no I/O.
- `rollout.book`: rollouts in the runtime store, shared by every front end.
- `rollout.judging`: what one turn says about the version that took it.
- `rollout.steward`: what a rollout asks of the registry, through its gate.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Arm": "plan",
    "CallTape": "shadow",
    "Rollout": "plan",
    "RolloutBook": "book",
    "RolloutMode": "plan",
    "RolloutPlan": "plan",
    "RolloutState": "plan",
    "RolloutSteward": "steward",
    "Shadow": "shadow",
    "TurnVerdict": "judging",
    "judge_error": "judging",
    "judge_reply": "judging",
    "slot_version": "steward",
    "start_rollout": "steward",
}

__all__ = [
    "Arm",
    "CallTape",
    "Rollout",
    "RolloutBook",
    "RolloutMode",
    "RolloutPlan",
    "RolloutState",
    "RolloutSteward",
    "Shadow",
    "TurnVerdict",
    "judge_error",
    "judge_reply",
    "slot_version",
    "start_rollout",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.lifecycle.rollout.book import RolloutBook
    from mlflow_agent_plugin.lifecycle.rollout.judging import (
        TurnVerdict,
        judge_error,
        judge_reply,
    )
    from mlflow_agent_plugin.lifecycle.rollout.plan import (
        Arm,
        Rollout,
        RolloutMode,
        RolloutPlan,
        RolloutState,
    )
    from mlflow_agent_plugin.lifecycle.rollout.shadow import CallTape, Shadow
    from mlflow_agent_plugin.lifecycle.rollout.steward import (
        RolloutSteward,
        slot_version,
        start_rollout,
    )


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
