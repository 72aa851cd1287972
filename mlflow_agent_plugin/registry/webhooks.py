"""What happens to a gated model, told to MLflow's own webhooks.

Rules:
- MLflow knows a fixed list of events and no plugin can add one; its events know neither stage
  transitions nor tags of models. So the registry sets the tag ``agent.event`` on the version, and
  that reaches whoever subscribed to ``model_version_tag.set``, with MLflow's signature.
- Only what was committed is told; what was refused is in the audit alone.
- Like MLflow's own events they leave a server, not a process with the database at hand; a receiver
  that is away does not hold a change back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.registry.places import in_server
from mlflow_agent_plugin.trust.audit import AuditKind

EVENT_TAG = "agent.event"

TOLD = frozenset(
    {
        AuditKind.PROMOTION_REQUESTED,
        AuditKind.PROMOTION_ANSWERED,
        AuditKind.VERSION_PROMOTED,
        AuditKind.VERSION_ROLLED_BACK,
        AuditKind.SLOT_EMPTIED,
        AuditKind.UNSAFE_OVERRIDE,
        AuditKind.EVIDENCE_REVOKED,
    }
)
"""Kinds of audit events that are told, under the same names; MLflow tells of new versions."""


@dataclass(frozen=True)
class Announcement:
    """One event about one version.

    Attributes:
        version: Of the model the transaction is about.
        value: What the tag holds, JSON.
    """

    version: int
    value: str


def announce(store: Any, name: str, events: Sequence[Announcement]) -> None:
    """Hand committed events to MLflow's delivery, which sends them from threads of its own."""
    if not events or in_server() is None:
        return
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.webhooks.delivery import deliver_webhook
    from mlflow.webhooks.types import ModelVersionTagSetPayload

    for event in events:
        deliver_webhook(
            event=WebhookEvent(WebhookEntity.MODEL_VERSION_TAG, WebhookAction.SET),
            payload=ModelVersionTagSetPayload(
                name=name, version=str(event.version), key=EVENT_TAG, value=event.value
            ),
            store=store,
        )
