"""The steward's tools: thin. What may be proposed, and for which models, stands in the world.

There is no tool that approves, promotes or rolls back, and none can be written here: the world
knows no such thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import ToolContext

Json = dict[str, Any]


def show_signals(context: ToolContext, *, model: str) -> Json:
    """Show what is known about a model's version in service."""
    return dict(context.resources.signals(model))


def list_versions(context: ToolContext, *, model: str) -> Json:
    """List a model's versions, the newest first."""
    return {"model": model, "versions": context.resources.versions(model)}


def propose_retraining(context: ToolContext, *, model: str, reason: str) -> Json:
    """Start the retraining pipeline; its candidate waits at the gate."""
    return dict(context.resources.propose_retraining(model, reason, by=context.actor.user))


def prepare_candidate_evaluation(
    context: ToolContext, *, model: str, version: int, suite: str
) -> Json:
    """Start an evaluation of a version."""
    return dict(context.resources.prepare_evaluation(model, version, suite, by=context.actor.user))


def propose_rollout(context: ToolContext, *, model: str, version: int, reason: str) -> Json:
    """Open a promotion request for a version."""
    return dict(context.resources.propose_rollout(model, version, reason, by=context.actor.user))
