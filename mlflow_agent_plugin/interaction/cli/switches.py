"""Kill switches from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import actor_option, store_option
from mlflow_agent_plugin.interaction.cli.stores import open_store

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust import Switch

_KINDS = click.Choice(["tool", "agent", "tenant"])


@click.group()
def switch() -> None:
    """Stop a tool, an agent or a tenant in every worker, within a second."""


@switch.command("stop")
@click.argument("kind", type=_KINDS)
@click.argument("name")
@click.option("--reason", required=True, help="Why; operators read it, users do not.")
@actor_option
@store_option
@answers
def switch_stop(
    kind: str, name: str, reason: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Stop it: no new turn, no further tool call. A tool may be AGENT/TOOL."""
    found = _change(kind, name, reason, actor_text, store_uri, stop=True)
    return Answer(found.to_dict(), (f"stopped: {kind} {found.name}",))


@switch.command("start")
@click.argument("kind", type=_KINDS)
@click.argument("name")
@click.option("--reason", required=True, help="Why it may run again.")
@actor_option
@store_option
@answers
def switch_start(
    kind: str, name: str, reason: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Let it run again."""
    found = _change(kind, name, reason, actor_text, store_uri, stop=False)
    return Answer(found.to_dict(), (f"started: {kind} {found.name}",))


@switch.command("list")
@click.option("--all", "show_all", is_flag=True, help="What was started again, too.")
@store_option
@answers
def switch_list(
    show_all: bool,  # noqa: FBT001 - click passes flags
    store_uri: str | None,
) -> Answer:
    """List what is stopped, the latest first."""
    from mlflow_agent_plugin.trust import SwitchBoard

    with open_store(store_uri) as store:
        found = SwitchBoard(store).list(everything=show_all)
    rows = [
        (
            item.kind.value,
            item.name,
            "stopped" if item.stopped else "running",
            f"{item.changed_at:%Y-%m-%d %H:%M:%S}",
            item.changed_by,
            item.reason,
        )
        for item in found
    ]
    columns = ("kind", "name", "state", "since (UTC)", "by", "reason")
    return Answer([item.to_dict() for item in found], (Table("switches", columns, rows),))


def _change(
    kind: str, name: str, reason: str, actor_text: str | None, store_uri: str | None, *, stop: bool
) -> Switch:
    from mlflow_agent_plugin.trust import SwitchBoard, local_actor, parse_actor

    by = local_actor() if actor_text is None else parse_actor(actor_text)
    with open_store(store_uri) as store:
        board = SwitchBoard(store)
        change = board.stop if stop else board.start
        return change(kind, name, reason=reason, by=by)


COMMANDS = (switch,)
