"""Safety: what was denied, corrected, handed over, stopped, or done past a rule.

Rules:
- How often comes from the monitoring table (`numbers`); what exactly, from the audit (`findings`),
  each with the way to the whole request.
- What is stopped now, and what went past a rule, stands above everything, in red.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.interaction.web.console.numbers import DAYS, Numbers
from mlflow_agent_plugin.interaction.web.console.plots import bars, lines
from mlflow_agent_plugin.interaction.web.console.rendering import page
from mlflow_agent_plugin.interaction.web.console.signals import read_numbers
from mlflow_agent_plugin.interaction.web.console.views import needs, number, show
from mlflow_agent_plugin.interaction.web.people import Person, may_read_model
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.store.tables import effect_runs
from mlflow_agent_plugin.trust import AuditEvent, SwitchBoard
from mlflow_agent_plugin.trust.approval.inbox import count_waiting
from mlflow_agent_plugin.trust.audit.findings import Finding, find
from mlflow_agent_plugin.trust.switches import Switch, SwitchKind

PAGE = 25
_RATES = (
    ("denied by policy", "denial_rate"),
    ("rejected by a person", "override_rate"),
    ("handed to a person", "escalation_rate"),
    ("refused", "refusal_rate"),
    ("failed", "failure_rate"),
    ("a tool failed", "tool_failure_rate"),
)
_TITLES = {
    Finding.DENIAL: "denials",
    Finding.OVERRIDE: "overrides",
    Finding.ESCALATION: "escalations",
    Finding.FAILURE: "failures",
    Finding.STOP: "stops",
    Finding.BREAK_GLASS: "past a rule",
}


def safety(request: Request, person: Person) -> Response:
    """Show what is stopped, how often something went wrong, and the list of one kind of finding."""
    needs(
        person.may_read_audit, "Safety is for reviewers, operations, auditors and administrators."
    )
    days, agent, found, problem = read_numbers(request, person)
    asked = request.query_params.get("show") or Finding.DENIAL.value
    if asked not in {item.value for item in Finding}:
        raise HTTPException(400, f"show is one of {', '.join(item.value for item in Finding)}.")
    finding = Finding(asked)
    listed = find(
        records().runtime,
        finding,
        tenant=person.tenant,
        agent=agent or None,
        before=number(request, "before") or None,
        limit=PAGE,
    )
    return page(
        request,
        person,
        "safety.html",
        title="Safety",
        days=days,
        choices=DAYS,
        agent=agent,
        found=found,
        problem=problem,
        plots=[] if found is None or not found.days else _plots(found),
        rates=_RATES,
        stopped=_stopped(person),
        broken=_past_the_gate(person),
        in_doubt=_in_doubt() if person.tenant is None else None,
        waiting=count_waiting(records().runtime, tenant=person.tenant, now=utc_now()),
        finding=finding,
        titles=_TITLES,
        listed=listed,
    )


def _plots(found: Numbers) -> list[Any]:
    days = [day[5:] for day in found.days]
    return [
        bars("Requests with trouble, a day", days, found.trouble),
        lines(
            "Share of all requests",
            days,
            {
                "denied by policy": found.series("denial_rate"),
                "rejected by a person": found.series("override_rate"),
                "handed to a person": found.series("escalation_rate"),
                "failed": found.series("failure_rate"),
            },
            unit="rate",
        ),
    ]


def _stopped(person: Person) -> Sequence[Switch]:
    """Return what is stopped now; other tenants' switches are not this person's to see."""
    return [
        switch
        for switch in SwitchBoard(records().runtime).list()
        if switch.kind is not SwitchKind.TENANT or person.tenant in (None, switch.name)
    ]


def _past_the_gate(person: Person) -> list[AuditEvent]:
    """Return the latest promotions past the gate of models this person may see."""
    newest = find(records().registry_store, Finding.BREAK_GLASS, tenant=None, limit=PAGE)
    return [
        event for event in newest.events if may_read_model(person, str(event.body.get("model", "")))
    ]


def _in_doubt() -> int:
    """Return how many calls ended nobody knows how; they are not any tenant's in the ledger."""
    query = select(func.count()).where(effect_runs)
    with records().runtime.read() as connection:
        return int(connection.execute(query).scalar() or 0)


ROUTES: list[Route] = [show("/safety", safety)]
