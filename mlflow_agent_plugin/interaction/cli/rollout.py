"""Commands about rollouts: a candidate beside the incumbent."""

from __future__ import annotations

from typing import Any

import click

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    actor_option,
    name_argument,
    store_option,
)
from mlflow_agent_plugin.interaction.cli.stores import open_store

_RATE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.group()
def rollout() -> None:
    """Try a candidate on part of the traffic, by stop rules."""


@rollout.command("start")
@name_argument
@click.option("--stable", default="@champion", show_default=True, help="Slot that is served.")
@click.option("--candidate", default="@canary", show_default=True, help="Slot that is tried.")
@click.option(
    "--mode",
    type=click.Choice(["canary", "shadow"]),
    default="canary",
    show_default=True,
    help="Answer a share of the conversations, or be shown them and change nothing.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Part of the new conversations.",
)
@click.option("--success-margin", type=_RATE, default=0.05, show_default=True,
              help="Drop of the success rate that is not accepted.")  # fmt: skip
@click.option("--error-margin", type=_RATE, default=0.02, show_default=True,
              help="Rise of the error rate that is not accepted.")  # fmt: skip
@click.option("--alpha", type=_RATE, default=0.05, show_default=True,
              help="Chance of stopping a candidate that is no worse.")  # fmt: skip
@click.option("--min-sessions", type=click.IntRange(1), default=200, show_default=True,
              help="Conversations of the candidate before it can be ready.")  # fmt: skip
@click.option("--max-incidents", type=click.IntRange(0), default=0, show_default=True,
              help="Safety incidents that are accepted.")  # fmt: skip
@click.option(
    "--on-success",
    type=click.Choice(["promote", "nothing"]),
    default="promote",
    show_default=True,
    help="What follows when it proved as good; the gate has its say.",
)
@actor_option
@store_option
@answers
def rollout_start(
    name: str, stable: str, candidate: str, actor_text: str | None, store_uri: str | None,
    **options: Any,
) -> Answer:  # fmt: skip
    """Roll what stands in the candidate slot of NAME out beside the stable one.

    Both slots must be protected by the gate. Front ends that serve the stable slot split from now
    on; nobody restarts anything.
    """
    from mlflow_agent_plugin.lifecycle.rollout import RolloutBook, RolloutPlan, start_rollout
    from mlflow_agent_plugin.trust import local_actor, parse_actor

    by = local_actor() if actor_text is None else parse_actor(actor_text)
    plan = RolloutPlan(stable_slot=stable, candidate_slot=candidate, **options)
    with open_store(store_uri) as store:
        found = start_rollout(name, plan, by=by, book=RolloutBook(store))
    return Answer(found.to_dict(), (found.summary(),))


@rollout.command("list")
@click.option("--model", help="Of one registered model.")
@store_option
@answers
def rollout_list(model: str | None, store_uri: str | None) -> Answer:
    """List the latest rollouts."""
    from mlflow_agent_plugin.lifecycle.rollout import RolloutBook

    with open_store(store_uri) as store:
        found = RolloutBook(store).list(model)
    rows = [
        (
            item.rollout_id,
            item.model,
            item.mode.value,
            f"{item.candidate_version} beside {item.incumbent_version}",
            item.state.value,
            item.numbers["sessions"]["candidate"],
            item.reason,
        )
        for item in found
    ]
    columns = ("rollout", "model", "mode", "versions", "state", "sessions", "why")
    return Answer([item.to_dict() for item in found], (Table("rollouts", columns, rows),))


@rollout.command("show")
@click.argument("rollout_id")
@store_option
@answers
def rollout_show(rollout_id: str, store_uri: str | None) -> Answer:
    """Show one rollout; exit 1 if it was stopped."""
    from mlflow_agent_plugin.lifecycle.rollout import RolloutBook, RolloutState

    with open_store(store_uri) as store:
        found = RolloutBook(store).get(rollout_id)
    data = found.to_dict()
    rows = [
        (arm, count) for arm, count in (*data["sessions"].items(), ("incidents", data["incidents"]))
    ]
    lines: list[str | Table] = [found.summary(), Table("counted", ("what", "number"), rows)]
    if found.registry_note:
        lines.append(f"registry: {found.registry_note}")
    return Answer(data, lines, failed=found.state is RolloutState.STOPPED)


@rollout.command("stop")
@click.argument("rollout_id")
@click.option("--reason", required=True, help="Why; it stands in the audit.")
@actor_option
@store_option
@answers
def rollout_stop(
    rollout_id: str, reason: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Send everything back to the incumbent.

    Front ends follow within half a second and empty the candidate's slot; where none runs, this
    command empties it.
    """
    from mlflow_agent_plugin.lifecycle.rollout import RolloutBook, RolloutSteward
    from mlflow_agent_plugin.trust import local_actor, parse_actor

    by = local_actor() if actor_text is None else parse_actor(actor_text)
    with open_store(store_uri) as store:
        book = RolloutBook(store)
        book.stop(rollout_id, reason=reason, by=by)
        RolloutSteward(store, book).step()
        found = book.get(rollout_id)
    note = f"registry: {found.registry_note}" if found.registry_note else "registry: to be done"
    return Answer(found.to_dict(), (found.summary(), note))


@rollout.command("incident")
@click.argument("rollout_id")
@click.argument("kind")
@actor_option
@store_option
@answers
def rollout_incident(
    rollout_id: str, kind: str, actor_text: str | None, store_uri: str | None
) -> Answer:
    """Report a safety incident of the candidate, for monitors and people."""
    from mlflow_agent_plugin.lifecycle.rollout import RolloutBook
    from mlflow_agent_plugin.trust import local_actor, parse_actor

    by = local_actor() if actor_text is None else parse_actor(actor_text)
    with open_store(store_uri) as store:
        book = RolloutBook(store)
        if not book.get(rollout_id).is_open:
            raise RequestError("the rollout is over", where=rollout_id)
        book.report_incident(rollout_id, kind, by=by)
        found = book.get(rollout_id)
    return Answer(found.to_dict(), (found.summary(),))


COMMANDS = (rollout,)
