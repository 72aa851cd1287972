"""Commands that tell people outside what waits for them."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table, print_answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import FILE, json_option, store_option
from mlflow_agent_plugin.interaction.cli.stores import open_store


@click.group()
def notices() -> None:
    """Tell webhooks and Slack what waits for an answer."""


@notices.command("run")
@click.option("--targets", type=FILE, required=True, help="File of who is told of what.")
@click.option(
    "--every",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
@store_option
@json_option
def notices_run(
    targets: Path,
    every: float,
    once: bool,  # noqa: FBT001 - click passes flags
    store_uri: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Tell targets of waiting approvals and promotion requests, until it is stopped.

    Any number of these may run on one store. Promotion requests are seen where the registry's
    database is (an agents+ URI).
    """
    from mlflow_agent_plugin.errors import StoreError
    from mlflow_agent_plugin.interaction.notices.notifier import Notifier
    from mlflow_agent_plugin.interaction.notices.targets import read_targets

    found = read_targets(targets)
    end = threading.Event()
    with open_store(store_uri) as store:
        notifier = Notifier(store, found)
        if once:
            arrived = notifier.look()
            print_answer(Answer({"arrived": arrived}, (f"{arrived} arrived",)), as_json=as_json)
            return
        names = [target.name for target in found.targets]
        print_answer(Answer({"targets": names}, (f"telling {', '.join(names)}",)), as_json=as_json)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: end.set())
        while not end.wait(every):
            try:
                notifier.look()
            except StoreError as error:
                click.echo(f"not now: {error}", err=True)


@notices.command("list")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The latest."
)
@store_option
@answers
def notices_list(limit: int, store_uri: str | None) -> Answer:
    """Show what was told, and what is still to be told."""
    from mlflow_agent_plugin.interaction.notices.outbox import Outbox

    with open_store(store_uri) as store:
        rows = Outbox(store).list(limit=limit)
    shown = [
        (row.target, row.event, row.event_id, row.state.value, row.attempts, row.last_error)
        for row in rows
    ]
    columns = ("target", "event", "id", "state", "tries", "last error")
    return Answer([row.to_dict() for row in rows], (Table("notices", columns, shown),))


COMMANDS = (notices,)
