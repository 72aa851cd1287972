"""Commands for reviewers: what may stand where, who says so, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    FILE,
    by_option,
    comment_option,
    name_argument,
    read_version,
    to_option,
    version_argument,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.registry.commands import Command


def _about_version(function: Any) -> Any:
    """Add NAME, VERSION and ``--to``."""
    return name_argument(version_argument(to_option(answers(function))))


@click.command()
@_about_version
def gate(name: str, version: int, to: str) -> Answer:
    """Say which of a slot's requirements VERSION of NAME meets.

    Exit 1 if one is not met.
    """
    import mlflow_agent_plugin as agents

    report = agents.gate_report(name, version, to=to)
    rows = [(item.status.value, item.title, item.why, item.hint) for item in report.results]
    return Answer(
        report.to_dict(),
        (
            f"{report.name} version {report.version} -> {report.slot}: {report.summary()}",
            Table("requirements", ("status", "requirement", "found", "what to do"), rows),
            *(f"note: {note}" for note in report.notes),
        ),
        failed=not report.passed,
    )


def _commanded(
    command: Command, name: str, version: int, act: Callable[[], object], said: str, **data: Any
) -> Answer:
    act()
    _check_gated(command, name, version)
    return Answer({"result": said, "name": name, "version": version, **data}, (said,))


def _check_gated(command: Command, name: str, version: int | None = None) -> None:
    """Refuse to report a success that an ordinary registry only noted down as a tag.

    Raises:
        RequestError: MLflow's registry is not a gated one.
    """
    from mlflow import MlflowClient

    from mlflow_agent_plugin.errors import RequestError

    client = MlflowClient()
    if version is None:
        if not _is_noted(command, client.get_registered_model(name).tags):
            return
        client.delete_registered_model_tag(name, command.value)
    else:
        if not _is_noted(command, client.get_model_version(name, str(version)).tags):
            return
        client.delete_model_version_tag(name, str(version), command.value)
    raise RequestError(
        f"the registry of {name} is not behind a gate; nothing was changed",
        hint="Set MLFLOW_REGISTRY_URI to a URI that starts with agents+, or to such a server.",
    )


def _is_noted(command: Command, tags: Mapping[str, str]) -> bool:
    noted = tags.get(command.value)
    # A gated registry keeps no command; under one key it writes, in words, what was done.
    return noted is not None and (command.name != "EMERGENCY" or noted.startswith("{"))


@click.command()
@comment_option
@by_option
@_about_version
def request(name: str, version: int, to: str, comment: str, by: str | None) -> Answer:
    """Ask for VERSION of NAME to be promoted."""
    from mlflow_agent_plugin.registry import request_promotion
    from mlflow_agent_plugin.registry.commands import Command

    return _commanded(
        Command.REQUEST,
        name,
        version,
        lambda: request_promotion(name, version, to=to, comment=comment, by=by),
        f"requested: {name} version {version} to {to}",
        to=to,
    )


@click.command("approve")
@comment_option
@by_option
@_about_version
def approve_request(name: str, version: int, to: str, comment: str, by: str | None) -> Answer:
    """Approve a promotion request."""
    from mlflow_agent_plugin.registry import approve
    from mlflow_agent_plugin.registry.commands import Command

    return _commanded(
        Command.APPROVE,
        name,
        version,
        lambda: approve(name, version, to=to, comment=comment, by=by),
        f"approved: {name} version {version} to {to}",
        to=to,
    )


@click.command("reject")
@click.option("--reason", required=True, help="Why not; the author reads it.")
@by_option
@_about_version
def reject_request(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Reject a promotion request."""
    from mlflow_agent_plugin.registry import reject
    from mlflow_agent_plugin.registry.commands import Command

    return _commanded(
        Command.REJECT,
        name,
        version,
        lambda: reject(name, version, to=to, reason=reason, by=by),
        f"rejected: {name} version {version} to {to}",
        to=to,
    )


@click.command("withdraw")
@click.option("--reason", required=True, help="Why.")
@by_option
@_about_version
def withdraw_request(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Take your own promotion request back."""
    from mlflow_agent_plugin.registry import withdraw
    from mlflow_agent_plugin.registry.commands import Command

    return _commanded(
        Command.WITHDRAW,
        name,
        version,
        lambda: withdraw(name, version, to=to, reason=reason, by=by),
        f"withdrawn: {name} version {version} to {to}",
        to=to,
    )


@click.command()
@_about_version
def promote(name: str, version: int, to: str) -> Answer:
    """Point a stage or alias of NAME to VERSION, if the gate lets it."""
    import mlflow_agent_plugin as agents

    agents.promote(name, version, to=to)
    said = f"promoted: {name} {to} is version {version}"
    return Answer({"result": said, "name": name, "version": version, "to": to}, (said,))


@click.command("emergency")
@click.option("--reason", required=True, help="Why; it stands in the history and the audit.")
@by_option
@_about_version
def emergency(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Point a slot of NAME to VERSION past the gate; on record.

    By people with the gate's emergency role. It shows in the history, the audit and the tags.
    """
    from mlflow_agent_plugin.registry import emergency_promote
    from mlflow_agent_plugin.registry.commands import Command

    answer = _commanded(
        Command.EMERGENCY,
        name,
        version,
        lambda: emergency_promote(name, version, to=to, reason=reason, by=by),
        f"promoted past the gate: {name} {to} is version {version}",
        to=to,
        past_the_gate=True,
    )
    warning = (
        f"WARNING: {to} of {name} now points to version {version} although the gate did not "
        "pass it. This is on record in the history and the audit. Roll back when you can."
    )
    click.secho(warning, fg="red", bold=True, err=True)
    return answer


@click.command()
@name_argument
@to_option
@click.option("--reason", required=True, help="Why; it stands in the history.")
@click.option("--version", callback=read_version, help="Which; default: what was there before.")
@by_option
@answers
def rollback(name: str, to: str, reason: str, version: int | None, by: str | None) -> Answer:
    """Point a slot of NAME back to what stood there before.

    Only to a version that stood there by right; no new evaluation is needed.
    """
    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.registry.commands import Command

    agents.rollback(name, to=to, reason=reason, version=version, by=by)
    _check_gated(Command.ROLLBACK, name)
    now = agents.history(name, slot=to)[-1].version
    said = f"rolled back: {name} {to} is version {now}"
    return Answer({"result": said, "name": name, "version": now, "to": to}, (said,))


@click.command()
@name_argument
@to_option
@click.option("--reason", required=True, help="Why; it stands in the history.")
@by_option
@answers
def retire(name: str, to: str, reason: str, by: str | None) -> Answer:
    """Empty a slot of NAME: whoever loads it gets an error."""
    from mlflow_agent_plugin.registry import retire as retire_slot
    from mlflow_agent_plugin.registry.commands import Command

    retire_slot(name, to=to, reason=reason, by=by)
    _check_gated(Command.RETIRE, name)
    said = f"retired: {name} {to} points to nothing"
    return Answer({"result": said, "name": name, "version": None, "to": to}, (said,))


@click.command()
@name_argument
@click.argument("gate_yaml", type=FILE)
@answers
def rules(name: str, gate_yaml: Path) -> Answer:
    """Replace the gate's rules stored with NAME.

    Tightening is free; loosening them takes a reviewer.
    """
    from mlflow_agent_plugin.registry import parse_rules, set_rules
    from mlflow_agent_plugin.registry.commands import Command

    text = gate_yaml.read_text("utf-8")
    found = parse_rules(text, name=str(gate_yaml))
    set_rules(name, text)
    _check_gated(Command.RULES, name)
    slots = [str(slot) for slot in found.slots()]
    said = f"the gate of {name} protects {', '.join(slots)} by these rules"
    return Answer({"result": said, "name": name, "slots": slots, "digest": found.digest()}, (said,))


@click.command()
@name_argument
@click.option("--to", "slot", metavar="SLOT", help="Only this stage or alias.")
@answers
def history(name: str, slot: str | None) -> Answer:
    """Show what NAME's slots pointed to, when, by whom, why."""
    import mlflow_agent_plugin as agents

    # Over REST the registry shows the history of one slot at a time.
    entries = [
        entry
        for each in ([slot] if slot is not None else _slots(name))
        for entry in agents.history(name, slot=each)
    ]
    entries.sort(key=lambda entry: (entry.at, entry.slot, entry.number))
    rows = [
        (
            f"{entry.at:%Y-%m-%d %H:%M}",
            entry.slot,
            entry.kind,
            "nothing" if entry.version is None else entry.version,
            entry.actor if entry.verified else f"{entry.actor} (unverified)",
            entry.reason,
        )
        for entry in entries
    ]
    return Answer(
        [entry.to_dict() for entry in entries],
        (Table(f"history of {name}", ("UTC", "slot", "what", "version", "by", "reason"), rows),),
    )


def _slots(name: str) -> list[str]:
    from mlflow import MlflowClient

    from mlflow_agent_plugin.errors import RequestError

    tags = MlflowClient().get_registered_model(name).tags
    keys = [key.removeprefix("agent.slot.") for key in tags if key.startswith("agent.slot.")]
    if not keys:
        raise RequestError(f"{name} has no slots behind a gate")
    return [f"@{key[6:]}" if key.startswith("alias.") else key for key in sorted(keys)]


COMMANDS = (
    gate,
    request,
    approve_request,
    reject_request,
    withdraw_request,
    promote,
    rollback,
    history,
    retire,
    emergency,
    rules,
)
