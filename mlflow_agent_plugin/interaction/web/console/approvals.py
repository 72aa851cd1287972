"""Tool calls that wait for a person: the queue, one call, the answer.

An edit is tried before it is made: against contract and policies of the very agent that asked,
where the registry has it.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.interaction.web.console.context import describe, read_conversation
from mlflow_agent_plugin.interaction.web.console.forms import Form
from mlflow_agent_plugin.interaction.web.console.rendering import go_to, page
from mlflow_agent_plugin.interaction.web.console.views import change, number, show, text
from mlflow_agent_plugin.interaction.web.people import Person, login_required
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.registry.overview import find_digests, open_bundle
from mlflow_agent_plugin.trust import Approval
from mlflow_agent_plugin.trust.approval.inbox import InboxFilter, InboxPage, list_inbox
from mlflow_agent_plugin.trust.approval.record import ApprovalState
from mlflow_agent_plugin.trust.approval.trial import check_edit
from mlflow_agent_plugin.trust.audit.search import AuditQuery, search_audit

FIELDS = ("tool", "agent", "requested_by", "role")
"""What the queue can be filtered by."""

ANSWERED = tuple(state for state in ApprovalState if state is not ApprovalState.WAITING)


def queue(request: Request, person: Person) -> Response:
    """Show the queue, or what was answered."""
    waiting = request.query_params.get("show") != "answered"
    return page(
        request,
        person,
        "approvals.html",
        title="Tool calls waiting" if waiting else "Tool calls answered",
        found=_inbox(request, person, waiting=waiting),
        waiting=waiting,
        fields=FIELDS,
        states=ANSWERED,
    )


def rows(request: Request, person: Person) -> Response:
    """Return the queue's table alone, for the page that keeps it fresh."""
    found = _inbox(request, person, waiting=True)
    return page(request, person, "approvals_rows.html", found=found, waiting=True)


def one(request: Request, person: Person) -> Response:
    """Show one call: exactly what would run, why a person is asked, and what led to it."""
    approval = _visible(request, person)
    led = search_audit(
        records().runtime,
        AuditQuery(tenant=approval.tenant, session_id=approval.session_id),
        limit=50,
    )
    return page(
        request,
        person,
        "approval.html",
        title=f"{approval.tool}",
        item=approval,
        about=describe(approval, led.events),
        conversation=read_conversation(approval),
        led=list(reversed(led.events)),
        may_answer=not login_required() or approval.role in person.actor.roles,
    )


def approve(request: Request, person: Person, form: Form) -> Response:
    """Say yes to exactly this call."""
    approval = _visible(request, person)
    records().queue.approve(approval.approval_id, person.actor, form.text("reason"))
    return go_to(request, "/approvals", f"Approved {approval.tool}.")


def reject(request: Request, person: Person, form: Form) -> Response:
    """Say no, with a reason the user is told."""
    approval = _visible(request, person)
    reason = form.required("reason", "a reason")
    records().queue.reject(approval.approval_id, person.actor, reason)
    return go_to(request, "/approvals", f"Rejected {approval.tool}.")


def edit(request: Request, person: Person, form: Form) -> Response:
    """Answer with other arguments."""
    approval = _visible(request, person)
    arguments = read_arguments(form.required("arguments", "the arguments"))
    made = edit_call(approval, person, arguments, form.required("reason", "a reason"))
    return go_to(request, f"/approvals/{made.approval_id}", f"Edited {approval.tool}.")


def claim(request: Request, person: Person, form: Form) -> Response:
    """Reserve the call while this person looks at it, or give it back."""
    approval = _visible(request, person)
    if form.text("release"):
        records().queue.release(approval.approval_id, person.actor)
        said = "Given back."
    else:
        records().queue.claim(approval.approval_id, person.actor)
        said = "Yours for 15 minutes."
    return go_to(request, f"/approvals/{approval.approval_id}", said)


def read_arguments(text: str) -> dict[str, Any]:
    """Return the JSON object somebody typed.

    Raises:
        HTTPException: 400, it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The arguments are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "The arguments are a JSON object.")
    return found


def edit_call(
    approval: Approval, person: Person, arguments: dict[str, Any], reason: str
) -> Approval:
    """Edit a waiting call; return the approval about the edited one.

    Raises:
        ApprovalError: The edit breaks a rule, or the agent would not run the edited call.
    """
    client = records().client
    for version in find_digests({approval.agent_digest}, client=client).get(
        approval.agent_digest, []
    )[:1]:
        with open_bundle(version.name, version.version, client=client) as folder:
            check_edit(approval, arguments, load_bundle(folder), records().runtime)
    return records().queue.edit(approval.approval_id, person.actor, arguments, reason)


def _inbox(request: Request, person: Person, *, waiting: bool) -> InboxPage:
    given = {name: text(request, name) or None for name in FIELDS}
    state = text(request, "state")
    if state and state not in {item.value for item in ANSWERED}:
        raise HTTPException(400, "There is no such state.")
    return list_inbox(
        records().runtime,
        tenant=person.tenant,
        now=utc_now(),
        roles=person.answer_roles,
        waiting=waiting,
        only=InboxFilter(**given, state=ApprovalState(state) if state and not waiting else None),
        offset=number(request, "offset"),
    )


def _visible(request: Request, person: Person) -> Approval:
    from mlflow_agent_plugin.errors import ApprovalError

    try:
        found = records().queue.get(str(request.path_params["approval_id"]), tenant=person.tenant)
    except ApprovalError as error:
        raise HTTPException(404, "There is no such tool call.") from error
    roles = person.answer_roles
    if roles is not None and found.role not in roles:
        raise HTTPException(404, "There is no such tool call.")
    return found


ROUTES: list[Route] = [
    show("/approvals", queue),
    show("/approvals/rows", rows),
    show("/approvals/{approval_id}", one),
    change("/approvals/{approval_id}/approve", approve),
    change("/approvals/{approval_id}/reject", reject),
    change("/approvals/{approval_id}/edit", edit),
    change("/approvals/{approval_id}/claim", claim),
]
