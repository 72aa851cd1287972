"""Commands around running agents: approvals, audit, key."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.output import json_option, print_json, print_table

_STORE = click.option(
    "--store", "store_uri", help="Runtime store (default: MLFLOW_AGENTS_STORE_URI)."
)
_AS = click.option(
    "--as", "actor_text", help="Who answers: user[@tenant][:role,role] (unverified)."
)


def _open_store(store_uri: str | None) -> Any:
    from mlflow_agent_plugin.store import Store

    return Store.open(store_uri)


@click.group()
def approvals() -> None:
    """Tool calls that wait for a human."""


@approvals.command("list")
@click.option("--all", "show_all", is_flag=True, help="Answered and expired ones too.")
@_STORE
@json_option
def approvals_list(show_all: bool, store_uri: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List waiting tool calls with their exact arguments."""
    from mlflow_agent_plugin.trust import ApprovalQueue, ApprovalState

    with _open_store(store_uri) as store:
        found = ApprovalQueue(store).list(state=None if show_all else ApprovalState.WAITING)
    if as_json:
        print_json([item.to_dict() for item in found])
        return
    print_table(
        "approvals",
        ("id", "agent", "tool", "arguments", "asked by", "role", "state", "expires"),
        [
            (
                item.approval_id,
                item.agent,
                item.tool,
                json.dumps(dict(item.arguments), ensure_ascii=False),
                item.requested_by,
                item.role,
                item.state.value,
                item.expires_at.isoformat(timespec="minutes"),
            )
            for item in found
        ],
    )


def _answer(
    approval_id: str, actor_text: str | None, store_uri: str | None, *, yes: bool, reason: str
) -> Any:
    from dataclasses import replace

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import ApprovalQueue, local_actor

    settings = Settings.from_env()
    if actor_text is not None:
        settings = replace(settings, actor=actor_text)
    by = local_actor(settings)
    with _open_store(store_uri) as store:
        queue = ApprovalQueue(store)
        return (queue.approve if yes else queue.reject)(approval_id, by, reason)


@approvals.command("approve")
@click.argument("approval_id")
@click.option("--reason", default="", help="Why.")
@_AS
@_STORE
@json_option
def approvals_approve(
    approval_id: str,
    reason: str,
    actor_text: str | None,
    store_uri: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Let one waiting tool call run."""
    approval = _answer(approval_id, actor_text, store_uri, yes=True, reason=reason)
    if as_json:
        print_json(approval.to_dict())
    else:
        click.echo(f"approved: {approval.tool} in session {approval.session_id}")


@approvals.command("reject")
@click.argument("approval_id")
@click.option("--reason", required=True, help="Why not; the agent is told.")
@_AS
@_STORE
@json_option
def approvals_reject(
    approval_id: str,
    reason: str,
    actor_text: str | None,
    store_uri: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Refuse one waiting tool call."""
    approval = _answer(approval_id, actor_text, store_uri, yes=False, reason=reason)
    if as_json:
        print_json(approval.to_dict())
    else:
        click.echo(f"rejected: {approval.tool} in session {approval.session_id}")


@click.group()
def audit() -> None:
    """What agents did, on a record nobody can quietly change."""


@audit.command("show")
@click.option("--session", "session_id", help="Only this conversation.")
@click.option("--request", "request_id", help="Only this request.")
@click.option("--limit", default=200, show_default=True, type=click.IntRange(1))
@_STORE
@json_option
def audit_show(
    session_id: str | None,
    request_id: str | None,
    limit: int,
    store_uri: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show the newest events, oldest first."""
    from mlflow_agent_plugin.trust import AuditLog

    with _open_store(store_uri) as store:
        events = AuditLog(store).events(session_id=session_id, request_id=request_id)[-limit:]
    if as_json:
        print_json([event.to_dict() for event in events])
        return
    print_table(
        "audit",
        ("time", "kind", "actor", "tool", "what"),
        [
            (
                event.ts.isoformat(timespec="seconds"),
                event.kind.value,
                event.user,
                event.body.get("tool"),
                _what(event.body),
            )
            for event in events
        ],
    )


def _what(body: dict[str, Any]) -> str:
    decision = body.get("decision")
    if isinstance(decision, dict):
        return f"{decision['value']} by {', '.join(decision['policy_ids']) or 'no policy'}"
    return str(body.get("status") or body.get("outcome") or body.get("approval_id") or "")


@audit.command("verify")
@_STORE
@json_option
def audit_verify(store_uri: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Check every hash and checkpoint; exit 1 and name the first bad row if one does not fit."""
    from mlflow_agent_plugin.trust import verify_audit

    with _open_store(store_uri) as store:
        result = verify_audit(store)
    if as_json:
        print_json(result.to_dict())
    else:
        click.echo(
            f"{result.events} events verified"
            if result.ok
            else "\n".join(str(problem) for problem in result.problems)
        )
    if not result.ok:
        raise click.exceptions.Exit(1)


@click.group()
def key() -> None:
    """Keys that sign evidence and actor tokens."""


@key.command("show")
@json_option
def key_show(as_json: bool) -> None:  # noqa: FBT001
    """Show the signing key's id (made on first use) and the trusted ones."""
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import KeyStore

    folder = Settings.from_env().key_dir
    store = KeyStore(folder)
    signing = store.signing_key().key_id
    trusted = sorted(store.trusted_keys())
    if as_json:
        print_json({"folder": str(folder), "signing": signing, "trusted": trusted})
        return
    print_table(
        f"keys in {folder}",
        ("key id", "use"),
        [(item, "signs and is trusted" if item == signing else "trusted") for item in trusted],
    )


@key.command("token")
@click.argument("actor_text", metavar="USER[@TENANT][:ROLE,ROLE]")
@click.option("--ttl-seconds", default=3600, show_default=True, type=click.IntRange(1))
def key_token(actor_text: str, ttl_seconds: int) -> None:
    """Issue a signed actor token for `custom_inputs.actor_token`."""
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import KeyStore, issue_token, parse_actor

    signing = KeyStore(Settings.from_env().key_dir).signing_key()
    click.echo(issue_token(parse_actor(actor_text), signing, ttl_seconds))


COMMANDS = (approvals, audit, key)
