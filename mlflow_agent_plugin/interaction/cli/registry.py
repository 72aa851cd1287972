"""Commands for reviewers: gate, request, approve, reject, promote, rollback, history."""

from __future__ import annotations

from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.output import (
    json_option,
    print_json,
    print_table,
    quiet_mlflow,
)

_VERSION = [click.argument("name"), click.argument("version")]
_TO = click.option("--to", required=True, help='Stage ("Production") or alias ("@champion").')


def _version_command(name: str | None = None) -> Any:
    def decorate(function: Any) -> Any:
        for option in reversed([*_VERSION, _TO]):
            function = option(function)
        return click.command(name)(json_option(quiet_mlflow(function)))

    return decorate


@_version_command()
def gate(name: str, version: str, to: str, as_json: bool) -> None:  # noqa: FBT001
    """Say which requirements VERSION of NAME meets; exit 1 if one is unmet."""
    import mlflow_agent_plugin as agents

    report = agents.gate_report(name, version, to=to)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.to_text())
    if not report.passed:
        raise click.exceptions.Exit(1)


def _answered(result: Any, said: str, *, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict() if hasattr(result, "to_dict") else {"result": said})
    else:
        click.echo(said)


@_version_command()
@click.option("--comment", default="", help="Why.")
def request(name: str, version: str, to: str, comment: str, as_json: bool) -> None:  # noqa: FBT001
    """Ask for VERSION of NAME to be promoted."""
    import mlflow_agent_plugin as agents

    result = agents.request_promotion(name, version, to=to, comment=comment)
    _answered(result, f"requested: {name} version {version} to {to}", as_json=as_json)


@_version_command()
@click.option("--comment", default="", help="Why.")
@click.option("--as", "by", help="Your name, where the server has no login (unverified).")
def approve(
    name: str,
    version: str,
    to: str,
    comment: str,
    by: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Approve a promotion request."""
    import mlflow_agent_plugin as agents

    result = agents.approve(name, version, to=to, comment=comment, by=by)
    _answered(result, f"approved: {name} version {version} to {to}", as_json=as_json)


@_version_command()
@click.option("--reason", required=True, help="Why not.")
@click.option("--as", "by", help="Your name, where the server has no login (unverified).")
def reject(
    name: str,
    version: str,
    to: str,
    reason: str,
    by: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Reject a promotion request."""
    import mlflow_agent_plugin as agents

    result = agents.reject(name, version, to=to, reason=reason, by=by)
    _answered(result, f"rejected: {name} version {version} to {to}", as_json=as_json)


@_version_command()
def promote(name: str, version: str, to: str, as_json: bool) -> None:  # noqa: FBT001
    """Move a stage or alias of NAME to VERSION, if the gate lets it."""
    import mlflow_agent_plugin as agents

    result = agents.promote(name, version, to=to)
    _answered(result, f"promoted: {name} version {version} is {to}", as_json=as_json)


@click.command()
@click.argument("name")
@_TO
@click.option("--reason", required=True, help="Why.")
@click.option("--version", help="Default: what was there before.")
@click.option("--as", "by", help="Your name, where the server has no login (unverified).")
@json_option
@quiet_mlflow
def rollback(
    name: str,
    to: str,
    reason: str,
    version: str | None,
    by: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Point a stage or alias of NAME back to a version that was validly there before."""
    import mlflow_agent_plugin as agents

    result = agents.rollback(name, to=to, reason=reason, version=version, by=by)
    _answered(result, f"rolled back: {name} {to}", as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--slot", help='Only this stage or alias, e.g. "Production".')
@json_option
@quiet_mlflow
def history(name: str, slot: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what each stage and alias of NAME pointed to, when, by whom and why."""
    import mlflow_agent_plugin as agents

    rows = [entry.to_dict() for entry in agents.history(name, slot=slot)]
    if as_json:
        print_json(rows)
        return
    columns = list(rows[0]) if rows else ["slot"]
    print_table(f"history of {name}", columns, [list(row.values()) for row in rows])


COMMANDS = (gate, request, approve, reject, promote, rollback, history)
