"""Commands for reviewers: what may stand where, who says so, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    FILE,
    PATH,
    by_option,
    comment_option,
    name_argument,
    read_version,
    to_option,
    version_argument,
)


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
    from mlflow_agent_plugin.registry.report import EMERGENCY

    report = agents.gate_report(name, version, to=to)
    for note in report.notes:
        if note.startswith(EMERGENCY):
            click.secho(note, fg="red", bold=True, err=True)
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


def _done(said: str, **data: Any) -> Answer:
    return Answer({"result": said, **data}, (said,))


@click.command()
@click.option(
    "--hold", is_flag=True, help="Once approved, wait until somebody runs `mlflow-agents promote`."
)
@comment_option
@by_option
@_about_version
def request(
    name: str, version: int, to: str, comment: str, by: str | None, *, hold: bool
) -> Answer:
    """Ask for VERSION of NAME to be promoted.

    The approval that completes the request moves the slot, unless --hold is given.
    """
    from mlflow_agent_plugin.registry import request_promotion

    request_promotion(name, version, to=to, comment=comment, apply=not hold, by=by)
    said = f"requested: {name} version {version} to {to}"
    return _done(said, name=name, version=version, to=to, apply=not hold)


@click.command("approve")
@comment_option
@by_option
@_about_version
def approve_request(name: str, version: int, to: str, comment: str, by: str | None) -> Answer:
    """Approve a promotion request.

    The approval that completes it moves the slot, unless the request says to wait. If the gate says
    no at that moment, the approval is kept and the answer says why nothing moved.
    """
    from mlflow_agent_plugin.registry import approve

    found = approve(name, version, to=to, comment=comment, by=by)
    what = f"{name} version {version} to {to}"
    return Answer(
        {
            "result": f"approved: {what}",
            "name": name,
            "version": version,
            "to": to,
            "applied": found.applied,
            "why": found.why,
        },
        (
            f"approved: {what}",
            f"promoted: {name} {to} is version {version}"
            if found.applied
            else f"not promoted: {found.why}",
        ),
    )


@click.command("comment")
@click.option("--comment", "text", required=True, help="What you have to say.")
@by_option
@_about_version
def comment_request(name: str, version: int, to: str, text: str, by: str | None) -> Answer:
    """Say something about a promotion request; it decides nothing."""
    from mlflow_agent_plugin.registry import comment

    comment(name, version, to=to, comment=text, by=by)
    return _done(f"noted: {name} version {version} to {to}", name=name, version=version, to=to)


@click.command("reject")
@click.option("--reason", required=True, help="Why not; the author reads it.")
@by_option
@_about_version
def reject_request(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Reject a promotion request."""
    from mlflow_agent_plugin.registry import reject

    reject(name, version, to=to, reason=reason, by=by)
    return _done(f"rejected: {name} version {version} to {to}", name=name, version=version, to=to)


@click.command("withdraw")
@click.option("--reason", required=True, help="Why.")
@by_option
@_about_version
def withdraw_request(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Take your own promotion request back."""
    from mlflow_agent_plugin.registry import withdraw

    withdraw(name, version, to=to, reason=reason, by=by)
    return _done(f"withdrawn: {name} version {version} to {to}", name=name, version=version, to=to)


@click.command("revoke-evidence")
@name_argument
@version_argument
@click.argument("run_id")
@click.option("--reason", required=True, help="Why it counts no more.")
@by_option
@answers
def revoke_run(name: str, version: int, run_id: str, reason: str, by: str | None) -> Answer:
    """Let the evidence of a run about VERSION of NAME count no more.

    By people with the gate's reviewer role. No version can be promoted or rolled back to on it.
    """
    from mlflow_agent_plugin.registry import revoke_evidence

    revoke_evidence(name, version, run_id, reason=reason, by=by)
    return _done(f"revoked: evidence of run {run_id}", name=name, version=version, run_id=run_id)


@click.command()
@_about_version
def promote(name: str, version: int, to: str) -> Answer:
    """Point a stage or alias of NAME to VERSION, if the gate lets it."""
    import mlflow_agent_plugin as agents

    agents.promote(name, version, to=to)
    said = f"promoted: {name} {to} is version {version}"
    return _done(said, name=name, version=version, to=to)


@click.command("emergency")
@click.option("--reason", required=True, help="Why; it stands in the history and the audit.")
@by_option
@_about_version
def emergency(name: str, version: int, to: str, reason: str, by: str | None) -> Answer:
    """Point a slot of NAME to VERSION past the gate; on record.

    By people with the gate's emergency role. It shows in the history, the audit and the tags.
    """
    from mlflow_agent_plugin.registry import emergency_promote

    emergency_promote(name, version, to=to, reason=reason, by=by)
    warning = (
        f"WARNING: {to} of {name} now points to version {version} although the gate did not "
        "pass it. This is on record in the history and the audit. Roll back when you can."
    )
    click.secho(warning, fg="red", bold=True, err=True)
    said = f"promoted past the gate: {name} {to} is version {version}"
    return _done(said, name=name, version=version, to=to, past_the_gate=True)


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

    agents.rollback(name, to=to, reason=reason, version=version, by=by)
    now = agents.history(name, slot=to)[-1].version
    return _done(f"rolled back: {name} {to} is version {now}", name=name, version=now, to=to)


@click.command()
@name_argument
@to_option
@click.option("--reason", required=True, help="Why; it stands in the history.")
@by_option
@answers
def retire(name: str, to: str, reason: str, by: str | None) -> Answer:
    """Empty a slot of NAME: whoever loads it gets an error."""
    from mlflow_agent_plugin.registry import retire as retire_slot

    retire_slot(name, to=to, reason=reason, by=by)
    return _done(f"retired: {name} {to} points to nothing", name=name, version=None, to=to)


@click.command()
@name_argument
@click.argument("gate_yaml", type=FILE)
@answers
def rules(name: str, gate_yaml: Path) -> Answer:
    """Replace the gate's rules stored with NAME.

    Tightening is free; loosening them takes a reviewer.
    """
    from mlflow_agent_plugin.registry import parse_rules, set_rules

    text = gate_yaml.read_text("utf-8")
    found = parse_rules(text, name=str(gate_yaml))
    set_rules(name, text)
    slots = [str(slot) for slot in found.slots()]
    said = f"the gate of {name} protects {', '.join(slots)} by these rules"
    return _done(said, name=name, slots=slots, digest=found.digest())


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


@click.command()
@name_argument
@to_option
@click.option("--fetch", type=PATH, metavar="FOLDER", help="Download it there, checked.")
@answers
def proof(name: str, to: str, fetch: Path | None) -> Answer:
    """Check the registry's signature on what a slot of NAME points to.

    Exit 1 if it is missing, forged, or about something else. With --fetch the content is compared
    byte for byte; nothing of it is run.
    """
    from mlflow_agent_plugin.registry.proof import check_promotion, fetch_promoted

    found = (
        check_promotion(name, to) if fetch is None else fetch_promoted(name, to, destination=fetch)
    )
    said = (
        f"{name} {to} is version {found.version}: {found.kind} by {found.actor} at "
        f"{found.at:%Y-%m-%d %H:%M} UTC, {found.agent_digest}"
    )
    lines = [said] if found.folder is None else [said, f"in {found.folder}, as promoted"]
    return Answer(vars(found), lines)


@click.command()
@answers
def verify() -> Answer:
    """Check every row, signature and copy the registry keeps.

    Exit 1 if one is wrong. In a process that holds the registry's database (an agents+ URI).
    """
    from mlflow_agent_plugin.registry import verify_registry

    found = verify_registry()
    return Answer(found.to_dict(), (str(found),), failed=not found.ok)


COMMANDS = (
    gate,
    request,
    approve_request,
    comment_request,
    reject_request,
    withdraw_request,
    revoke_run,
    promote,
    rollback,
    history,
    retire,
    emergency,
    rules,
    proof,
    verify,
)
