"""The way back: point a slot to the version that stood there before, through the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def roll_back(
    name: str,
    *,
    to: str,
    reason: str,
    version: int | str | None = None,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> int | None:
    """Roll `to` back and return the version it points to now.

    Args:
        name: Registered model.
        to: Stage, or alias written ``@champion``.
        reason: Kept in the history.
        version: Which; default: the one before.
        by: Who does it, where nobody is logged in.
        client: MLflow client.

    Raises:
        MlflowException: The caller is no reviewer, or there is nothing to go back to.
    """
    from mlflow_agent_plugin.registry import history, rollback

    rollback(name, to=to, reason=reason, version=version, by=by, client=client)
    entries = history(name, to, client=client)
    return entries[-1].version if entries else None
