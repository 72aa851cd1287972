"""Commands around running agents: approvals of tool calls, and the audit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import PATH, actor_option, store_option

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import Approval, AuditAnchor, AuditEvent


def open_store(store_uri: str | None) -> Store:
    """Open the runtime store an option or the settings name."""
    from mlflow_agent_plugin.store import Store

    return Store.open(store_uri)


@click.group()
def approvals() -> None:
    """Tool calls that wait for a person."""


@approvals.command("list")
@click.option("--all", "show_all", is_flag=True, help="Answered, used and expired ones too.")
@click.option("--tenant", help="Only this tenant's.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="At most so many.",
)
@store_option
@answers
def approvals_list(
    show_all: bool,  # noqa: FBT001 - click passes flags
    tenant: str | None,
    limit: int,
    store_uri: str | None,
) -> Answer:
    """List the waiting tool calls, the oldest first, with their exact arguments."""
    from mlflow_agent_plugin.trust import ApprovalQueue, ApprovalState

    state = None if show_all else ApprovalState.WAITING
    with open_store(store_uri) as store:
        found = ApprovalQueue(store).list(tenant, state, limit=limit)
    rows = [
        (
            item.approval_id,
            item.state.value,
            item.tool,
            _json(item.arguments),
            item.requested_by,
            item.role,
            f"{item.expires_at:%Y-%m-%d %H:%M}",
        )
        for item in found
    ]
    columns = ("id", "state", "tool", "arguments", "asked by", "role", "expires (UTC)")
    return Answer([item.to_dict() for item in found], (Table("approvals", columns, rows),))


def _json(value: Any) -> str:
    return json.dumps(dict(value), ensure_ascii=False)


@approvals.command("show")
@click.argument("approval_id")
@store_option
@answers
def approvals_show(approval_id: str, store_uri: str | None) -> Answer:
    """Show one tool call: what would happen, who asked, why a person is asked."""
    from mlflow_agent_plugin.trust import ApprovalQueue

    with open_store(store_uri) as store:
        found = ApprovalQueue(store).get(approval_id)
    values = {**found.to_dict(), "arguments": _json(found.arguments)}
    rows = [(name, value) for name, value in values.items() if value is not None]
    return Answer(found.to_dict(), (Table(approval_id, ("field", "value"), rows),))


@approvals.command("approve")
@click.argument("approval_id")
@click.option("--reason", default="", help="Why.")
@actor_option
@store_option
@answers
def approvals_approve(
    approval_id: str, reason: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Let one waiting tool call run, once, exactly as it was shown."""
    found = _answer(approval_id, actor_text, store_uri, reason, yes=True)
    return Answer(found.to_dict(), (_said(found),))


@approvals.command("reject")
@click.argument("approval_id")
@click.option("--reason", required=True, help="Why not; the agent is told.")
@actor_option
@store_option
@answers
def approvals_reject(
    approval_id: str, reason: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Refuse one waiting tool call."""
    found = _answer(approval_id, actor_text, store_uri, reason, yes=False)
    return Answer(found.to_dict(), (_said(found),))


def _answer(
    approval_id: str, actor_text: str | None, store_uri: str | None, reason: str, *, yes: bool
) -> Approval:
    from mlflow_agent_plugin.trust import ApprovalQueue, local_actor, parse_actor

    by = local_actor() if actor_text is None else parse_actor(actor_text)
    with open_store(store_uri) as store:
        queue = ApprovalQueue(store)
        return (
            queue.approve(approval_id, by, reason) if yes else queue.reject(approval_id, by, reason)
        )


def _said(found: Approval) -> str:
    call = f"{found.tool}({_json(found.arguments)})"
    return f"{found.state.value}: {call} in session {found.session_id}"


@click.group()
def audit() -> None:
    """What agents did, on a record nobody can quietly change."""


@audit.command("show")
@click.option("--session", "session_id", help="Only this conversation.")
@click.option("--request", "request_id", help="Only this request.")
@click.option("--kind", help="Only events of this kind.")
@click.option("--tenant", help="Only this tenant's.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="The latest so many.",
)
@store_option
@answers
def audit_show(
    session_id: str | None,
    request_id: str | None,
    kind: str | None,
    tenant: str | None,
    limit: int,
    store_uri: str | None,
) -> Answer:
    """Show the latest events, in the order they were written."""
    events = _events(store_uri, session_id, request_id, kind, tenant, limit)
    rows = [
        (
            event.ts[:19].replace("T", " "),
            event.kind,
            event.actor,
            event.agent or event.body.get("model"),
            _what(event),
        )
        for event in events
    ]
    return Answer(
        [event.to_dict() for event in events],
        (Table("audit", ("UTC", "kind", "actor", "agent", "what"), rows),),
    )


def _events(
    store_uri: str | None,
    session_id: str | None,
    request_id: str | None,
    kind: str | None,
    tenant: str | None,
    limit: int | None,
) -> list[AuditEvent]:
    from mlflow_agent_plugin.trust import AuditKind, AuditLog

    kinds = [item.value for item in AuditKind]
    if kind is not None and kind not in kinds:
        raise click.BadParameter(f"is none of {', '.join(kinds)}", param_hint="--kind")
    with open_store(store_uri) as store:
        return AuditLog(store).events(session_id, request_id, kind, tenant=tenant, limit=limit)


_TELLING = ("status", "outcome", "state", "version", "slot", "to", "policy_ids", "reason")


def _what(event: AuditEvent) -> str:
    body = event.body
    parts = [str(body["tool"])] if "tool" in body else []
    decision = body.get("decision")
    if isinstance(decision, dict):
        ids = ", ".join(map(str, decision.get("policy_ids") or ())) or "no policy"
        parts.append(f"{decision.get('value')} by {ids}")
    elif decision is not None:
        parts.append(str(decision))
    for name in _TELLING:
        value = body.get(name)
        if value not in (None, "", [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(text if name in ("status", "outcome", "state") else f"{name} {text}")
    return "; ".join(parts)


@audit.command("verify")
@click.option(
    "--anchor", metavar="NUMBER:HASH", help="A checkpoint noted earlier by `audit anchor`."
)
@store_option
@answers
def audit_verify(anchor: str | None, store_uri: str | None) -> Answer:
    """Check every hash, link and signature; exit 1 and name the first bad row if one is wrong."""
    from mlflow_agent_plugin.trust import verify_audit

    noted = None if anchor is None else _read_anchor(anchor)
    with open_store(store_uri) as store:
        found = verify_audit(store, anchor=noted)
    problems = [f"  {problem.row}: {problem}" for problem in found.problems]
    return Answer(found.to_dict(), (str(found), *problems), failed=not found.ok)


def _read_anchor(text: str) -> AuditAnchor:
    from mlflow_agent_plugin.trust import AuditAnchor

    match = re.fullmatch(r"(\d{1,18}):(.{1,100})", text)
    if match is None:
        raise click.BadParameter("is not NUMBER:HASH", param_hint="--anchor")
    return AuditAnchor(number=int(match[1]), hash=match[2])


@audit.command("anchor")
@store_option
@answers
def audit_anchor(store_uri: str | None) -> Answer:
    """Print the latest signed checkpoint; keep it where the store's owner cannot reach it."""
    from mlflow_agent_plugin.trust import AuditLog

    with open_store(store_uri) as store:
        found = AuditLog(store).anchor()
    if found is None:
        return Answer({"anchor": None}, ("no checkpoint yet",), failed=True)
    text = f"{found.number}:{found.hash}"
    return Answer({"anchor": text, **found.to_dict()}, (text,))


@audit.command("export")
@click.argument("target", type=PATH)
@click.option("--session", "session_id", help="Only this conversation.")
@click.option("--request", "request_id", help="Only this request.")
@click.option("--tenant", help="Only this tenant's.")
@store_option
@answers
def audit_export(
    target: Path,
    session_id: str | None,
    request_id: str | None,
    tenant: str | None,
    store_uri: str | None,
) -> Answer:
    """Write events with their hashes to the file TARGET, one JSON document a line."""
    events = _events(store_uri, session_id, request_id, None, tenant, None)
    draft = target.with_name(f".{target.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event.to_dict(), ensure_ascii=False, sort_keys=True) + "\n")
    draft.replace(target)
    return Answer(
        {"file": str(target), "events": len(events)}, (f"{len(events)} events in {target}",)
    )


COMMANDS = (approvals, audit)
