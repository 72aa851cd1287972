"""Commands for operators: monitor, drift, retrain, demo."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_agent_plugin.interaction.cli.output import (
    json_option,
    print_json,
    print_table,
    quiet_mlflow,
)

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--experiment", "experiments", multiple=True, help="Experiment id; default: all.")
@click.option("--path", type=PATH, default=Path("monitoring"), show_default=True)
@json_option
@quiet_mlflow
def monitor(experiments: tuple[str, ...], path: Path, as_json: bool) -> None:  # noqa: FBT001
    """Bring the monitoring table up to date with the served traffic."""
    import mlflow_agent_plugin as agents

    table = agents.monitoring_table(list(experiments) or None, path=path)
    if as_json:
        print_json(table.to_dict())
    else:
        click.echo(table.summary())


@click.command()
@click.argument("reference")
@click.argument("table", type=PATH)
@click.option("--report", type=PATH, help="Folder for drift.html and drift.json.")
@click.option("--sessions", type=click.IntRange(1), help="Sessions per window; default: one window.")
@json_option
@quiet_mlflow
def drift(
    reference: str,
    table: Path,
    report: Path | None,
    sessions: int | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Compare traffic in TABLE with REFERENCE (a models:/ URI, runs:/ URI or parquet file).

    Exit 1 if there is drift, or if that cannot be said.
    """
    from mlflow_agent_plugin.observability import read_table
    from mlflow_agent_plugin.observability.drift import check_drift, check_windows

    traffic = read_table(table)
    if sessions is None:
        verdict = check_drift(reference, traffic, report_dir=report)
    else:
        verdict = check_windows(
            reference, traffic, sessions=sessions, engine="evidently", report_dir=report
        )[-1]
    if as_json:
        print_json(verdict.to_dict())
    else:
        click.echo(verdict.summary())
        print_table(
            "columns",
            ("column", "status", "why"),
            [(item.name, item.status.value, item.reason) for item in verdict.columns],
        )
    if verdict.drifted is not False:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--dir", "folder", type=PATH, default=Path(".demo"), show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@json_option
@quiet_mlflow
def demo(folder: Path, workers: int, as_json: bool) -> None:  # noqa: FBT001
    """Run the whole loop: train, evaluate, gate, serve, drift, retrain, roll back."""
    from mlflow_agent_plugin.interaction.demo import run_demo

    result = run_demo(folder, workers=workers, quiet=as_json)
    if as_json:
        print_json(result.to_dict())
    if not result.ok:
        raise click.exceptions.Exit(1)


COMMANDS = (monitor, drift, demo)
