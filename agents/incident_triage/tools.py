"""The incident triage agent's tools: thin. Rules stand in the world, a contract or a policy.

A refusal of the world (`WorldError`) leaves as an error whose text the engineer may read. The team
that owns a service is an argument, so that policies can compare it with the engineer's own; the
world refuses a wrong one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from world import WorldError

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import ToolContext

Json = dict[str, Any]


def list_alerts(
    context: ToolContext,
    *,
    service: str | None = None,
    severity: str | None = None,
    state: str = "firing",
) -> Json:
    """List alerts, the latest first."""
    alerts = context.resources.alerts(service=service, severity=severity, state=state)
    return {"alerts": alerts, "count": len(alerts)}


def get_service(context: ToolContext, *, service: str) -> Json:
    """Show one service of the catalogue."""
    return dict(context.resources.service(service))


def search_logs(
    context: ToolContext,
    *,
    service: str,
    text: str | None = None,
    level: str | None = None,
    limit: int = 20,
) -> Json:
    """Search one service's log lines."""
    lines = context.resources.logs(service, text=text, level=level, limit=limit)
    return {"lines": lines, "count": len(lines)}


def list_deploys(context: ToolContext, *, service: str, limit: int = 5) -> Json:
    """List one service's deploys, the latest first."""
    deploys = context.resources.deploys(service, limit=limit)
    return {"deploys": deploys, "count": len(deploys)}


def search_runbooks(context: ToolContext, *, query: str, top_k: int | None = None) -> Json:
    """Search the runbooks."""
    if context.knowledge is None:
        raise WorldError("The runbooks cannot be searched right now.")
    passages = context.knowledge.search(query, top_k)
    return {
        "passages": [
            {"chunk_id": item.chunk_id, "title": item.title, "text": item.text} for item in passages
        ],
        "count": len(passages),
    }


def restart_service(context: ToolContext, *, service: str, owner_team: str, reason: str) -> Json:
    """Restart every instance of a service, one after the other."""
    return dict(
        context.resources.restart(
            service,
            owner_team,
            reason,
            by=context.actor.user,
            at=context.now,
            key=context.idempotency_key,
        )
    )


def rollback_deploy(
    context: ToolContext, *, service: str, owner_team: str, to_version: str, reason: str
) -> Json:
    """Put an earlier version of a service back into production."""
    return dict(
        context.resources.roll_back(
            service,
            owner_team,
            to_version,
            reason,
            by=context.actor.user,
            at=context.now,
            key=context.idempotency_key,
        )
    )


def page_oncall(
    context: ToolContext, *, team: str, summary: str, incident_id: str | None = None
) -> Json:
    """Call the person who is on call for a team."""
    return dict(
        context.resources.page(
            team,
            summary,
            incident_id,
            by=context.actor.user,
            at=context.now,
            key=context.idempotency_key,
        )
    )


def update_incident(
    context: ToolContext,
    *,
    incident_id: str,
    note: str,
    status: str | None = None,
    severity: str | None = None,
) -> Json:
    """Add a note to an incident, and set its status or severity."""
    return dict(
        context.resources.update_incident(
            incident_id,
            note,
            status=status,
            severity=severity,
            by=context.actor.user,
            at=context.now,
            key=context.idempotency_key,
        )
    )
