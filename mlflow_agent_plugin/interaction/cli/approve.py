"""Commands for people who answer waiting tool calls.

Who answers is, in this order: the bearer of the token in ``MLFLOW_AGENTS_ACTOR_TOKEN`` (verified),
the name given with ``--as``, the name the settings give (both unverified).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    FOLDER,
    actor_option,
    read_json_object,
    store_option,
)
from mlflow_agent_plugin.interaction.cli.stores import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import Approval, ApprovalQueue

TOKEN_VARIABLE = "MLFLOW_AGENTS_ACTOR_TOKEN"  # noqa: S105 - a name, not a secret


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
            f"{item.yeses}/{item.quorum} {item.role}",
            item.claimed_by,
            f"{item.expires_at:%Y-%m-%d %H:%M}",
        )
        for item in found
    ]
    columns = (
        "id", "state", "tool", "arguments", "asked by", "yes", "claimed by", "expires (UTC)",
    )  # fmt: skip
    return Answer([item.to_dict() for item in found], (Table("approvals", columns, rows),))


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
    del values["votes"]
    rows = [(name, value) for name, value in values.items() if value is not None]
    votes = [
        ("yes" if vote.yes else "no", vote.voter, vote.verified, vote.reason, vote.voted_at)
        for vote in found.votes
    ]
    shown = [Table(approval_id, ("field", "value"), rows)]
    if votes:
        shown.append(Table("votes", ("vote", "by", "verified", "reason", "at"), votes))
    return Answer(found.to_dict(), shown)


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
    return _answer(actor_text, store_uri, lambda queue, by: queue.approve(approval_id, by, reason))


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
    return _answer(actor_text, store_uri, lambda queue, by: queue.reject(approval_id, by, reason))


@approvals.command("edit")
@click.argument("approval_id")
@click.option(
    "--arguments",
    metavar="JSON",
    required=True,
    callback=read_json_object,
    help="All arguments of the call as it should be.",
)
@click.option("--reason", required=True, help="Why; kept with the approval.")
@click.option(
    "--agent",
    "bundle",
    type=FOLDER,
    help="The agent's folder: contract and policies are tried before the edit is made.",
)
@actor_option
@store_option
@answers
def approvals_edit(
    approval_id: str,
    arguments: dict[str, Any],
    reason: str,
    bundle: Path | None,
    actor_text: str | None,
    store_uri: str | None,
) -> Answer:
    """Let one waiting tool call run with other arguments.

    The edited call is a call of its own: it has to fit the contract and the policies when the
    conversation goes on, or does not run.
    """

    def edit(queue: ApprovalQueue, by: Actor, store: Store) -> Approval:
        if bundle is not None:
            _try_edit(queue.get(approval_id), arguments, bundle, store)
        return queue.edit(approval_id, by, arguments, reason)

    return _answer_in_store(actor_text, store_uri, edit)


@approvals.command("claim")
@click.argument("approval_id")
@click.option(
    "--minutes",
    default=15,
    show_default=True,
    type=click.IntRange(1, 60),
    help="For how long nobody else can answer.",
)
@actor_option
@store_option
@answers
def approvals_claim(
    approval_id: str, minutes: int, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Reserve one waiting tool call while you look at it."""
    return _answer(
        actor_text,
        store_uri,
        lambda queue, by: queue.claim(approval_id, by, seconds=minutes * 60),
    )


@approvals.command("release")
@click.argument("approval_id")
@actor_option
@store_option
@answers
def approvals_release(approval_id: str, actor_text: str | None, store_uri: str | None) -> Answer:
    """Give back a tool call you claimed."""
    return _answer(actor_text, store_uri, lambda queue, by: queue.release(approval_id, by))


@approvals.command("feedback")
@click.option(
    "--days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(0, 36_500, min_open=True),
    help="Answers given in the last so many days.",
)
@click.option("--tenant", help="Only this tenant's.")
@store_option
@answers
def approvals_feedback(days: float, tenant: str | None, store_uri: str | None) -> Answer:
    """Write reviewers' answers as feedback to the traces of the requests they were about.

    Run it as often as you like: no answer is written twice.
    """
    from mlflow_agent_plugin.entities import utc_now
    from mlflow_agent_plugin.lifecycle import log_reviews

    with open_store(store_uri) as store:
        done = log_reviews(store, since=utc_now() - timedelta(days=days), tenant=tenant)
    return Answer(done.to_dict(), (done.summary(),))


def reviewer(actor_text: str | None) -> Actor:
    """Return who answers: see the module's rules.

    Raises:
        UsageError: Both a token and a name are given.
        ConfigError: The name cannot be read.
        IdentityError: The token is malformed, forged or expired.
    """
    from mlflow_agent_plugin.trust import (
        KeyPurpose,
        KeyStore,
        actor_from_token,
        local_actor,
        parse_actor,
    )

    token = os.environ.get(TOKEN_VARIABLE)
    if token and actor_text is not None:
        raise click.UsageError(f"--as and {TOKEN_VARIABLE} both say who you are: give one.")
    if token:
        return actor_from_token(token, KeyStore().trusted_keys(KeyPurpose.ACTORS))
    return local_actor() if actor_text is None else parse_actor(actor_text)


def _answer(
    actor_text: str | None,
    store_uri: str | None,
    change: Callable[[ApprovalQueue, Actor], Approval],
) -> Answer:
    return _answer_in_store(actor_text, store_uri, lambda queue, by, _: change(queue, by))


def _answer_in_store(
    actor_text: str | None,
    store_uri: str | None,
    change: Callable[[ApprovalQueue, Actor, Store], Approval],
) -> Answer:
    from mlflow_agent_plugin.trust import ApprovalQueue

    by = reviewer(actor_text)
    with open_store(store_uri) as store:
        found = change(ApprovalQueue(store), by, store)
    return Answer(found.to_dict(), (_said(found),))


def _said(found: Approval) -> str:
    call = f"{found.tool}({_json(found.arguments)})"
    said = f"{found.state.value}: {call} in session {found.session_id}"
    if found.state.value == "waiting":
        said += f", {found.yeses} of {found.quorum} said yes"
    if found.claimed_by is not None:
        said += f", claimed by {found.claimed_by} until {found.claimed_until:%H:%M} UTC"
    if found.edited_from is not None:
        said += f" ({found.approval_id}, edited from {found.edited_from})"
    return said


def _json(value: Any) -> str:
    return json.dumps(dict(value), ensure_ascii=False)


def _try_edit(approval: Approval, arguments: dict[str, Any], folder: Path, store: Store) -> None:
    """Refuse an edit that the agent in `folder` would refuse."""
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import check_edit

    check_edit(approval, arguments, load_bundle(folder), store)


COMMANDS = (approvals,)
