"""Commands around the record of running agents: the audit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import store_option
from mlflow_agent_plugin.interaction.cli.stores import open_store

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust import AuditAnchor, AuditEvent


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
    """Show the latest events, in the order they were written.

    With --request, one request's whole story: who asked, what was decided by which policies, who
    approved, what came of it.
    """
    if request_id is not None and session_id is None and kind is None:
        from mlflow_agent_plugin.trust import read_request

        with open_store(store_uri) as store:
            story = read_request(store, request_id, tenant=tenant)
        return Answer(story.to_dict(), (story.to_text(),))
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


_TELLING = (
    "status",
    "outcome",
    "state",
    "switch",
    "name",
    "version",
    "slot",
    "to",
    "policy_ids",
    "reason",
)


def _what(event: AuditEvent) -> str:
    body = event.body
    parts = [str(body["tool"])] if "tool" in body else []
    decision = body.get("decision")
    if isinstance(decision, dict):
        ids = ", ".join(map(str, decision.get("policy_ids") or ())) or "no policy"
        parts.append(f"{decision.get('value')} by {ids}")
    elif decision is not None:
        parts.append(str(decision))
    if event.starts_tool:
        parts.append("starts")
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
@click.argument("target")
@click.option("--session", "session_id", help="Only this conversation.")
@click.option("--request", "request_id", help="Only this request.")
@click.option("--tenant", help="Only this tenant's.")
@click.option(
    "--lock-days",
    type=click.IntRange(1, 36_500),
    help="On S3: nobody may delete or change the object for so many days.",
)
@click.option(
    "--lock-mode",
    type=click.Choice(["COMPLIANCE", "GOVERNANCE"]),
    default="COMPLIANCE",
    show_default=True,
    help="On S3: GOVERNANCE lets those with the right to it shorten the lock.",
)
@store_option
@answers
def audit_export(
    target: str,
    session_id: str | None,
    request_id: str | None,
    tenant: str | None,
    lock_days: int | None,
    lock_mode: str,
    store_uri: str | None,
) -> Answer:
    """Write events with their hashes to TARGET: a file, or s3://bucket/key.

    A name that ends in .parquet makes a Parquet file; any other, one JSON document a line.
    """
    from mlflow_agent_plugin.trust import AuditSelection, export_audit, export_audit_to_s3

    wanted = AuditSelection(session_id=session_id, request_id=request_id, tenant=tenant)
    if lock_days is not None and not target.startswith("s3://"):
        raise click.BadParameter("only objects on S3 can be locked", param_hint="--lock-days")
    with open_store(store_uri) as store:
        if target.startswith("s3://"):
            made = export_audit_to_s3(
                store, target, wanted, lock_days=lock_days, lock_mode=lock_mode
            )
        else:
            made = export_audit(store, target, wanted)
    said = f"{made.events} events in {made.target}"
    if made.locked_until is not None:
        said += f", locked until {made.locked_until:%Y-%m-%d}"
    anchor = "" if made.anchor is None else f"anchor {made.anchor.number}:{made.anchor.hash}"
    return Answer(made.to_dict(), (said, *filter(None, [anchor])))


COMMANDS = (audit,)
