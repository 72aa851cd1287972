"""Commands that measure and watch: evaluate, monitor, drift, retrain, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers, wants_json
from mlflow_agent_plugin.interaction.cli.options import (
    EXISTING_TABLE,
    FILE,
    FOLDER,
    PATH,
    TABLE,
    experiment_id,
    model_version,
    read_assignments,
)


@click.command()
@click.argument("model_uri")
@click.option(
    "--suite",
    "suites",
    metavar="PATH",
    multiple=True,
    required=True,
    help="A suite; may be repeated.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(0, 256),
    help="Processes; 0 plays in this one.",
)
@click.option(
    "--engine",
    type=click.Choice(["processes", "spark"]),
    default="processes",
    show_default=True,
    help="Where cases are played; on Spark its own parallelism counts.",
)
@click.option("--seed", default=0, show_default=True, help="Of faults, samples and models.")
@click.option(
    "--repeats",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Play so many times, with the seeds after it, to see what depends on the run.",
)
@click.option("--limit", type=click.IntRange(1), help="Play only so many cases of each suite.")
@click.option("--baseline", metavar="RUN_ID", help="Compare with this run, case by case.")
@click.option("--submit/--no-submit", default=True, help="Hand the evidence to the registry.")
@answers
def evaluate(
    model_uri: str,
    suites: tuple[str, ...],
    workers: int,
    engine: Literal["processes", "spark"],
    seed: int,
    repeats: int,
    limit: int | None,
    baseline: str | None,
    submit: bool,  # noqa: FBT001 - click passes flags
) -> Answer:
    """Run suites against MODEL_URI and sign the evidence.

    MODEL_URI is any MLflow model URI, or an agent's folder.
    """
    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.development.comparison import HEADINGS

    result = agents.evaluate(
        model_uri,
        list(suites),
        workers=workers,
        engine=engine,
        seed=seed,
        repeats=repeats,
        limit=limit,
        baseline=baseline,
        submit=submit,
        progress=not wants_json(),
    )
    rows = [row for suite in result.suites.values() for row in suite.table_rows()]
    handed = (
        f"evidence handed in for {result.submitted}"
        if result.submitted
        else "evidence not handed in"
    )
    return Answer(
        result.to_dict(),
        (
            Table(
                f"{result.agent} ({result.digest[:19]}…)",
                ("suite", "measure", "value", "95% interval", "n"),
                rows,
            ),
            *(
                Table(
                    f"{name} against run {baseline}, {suite.comparison.n} cases",
                    HEADINGS,
                    suite.comparison.table_rows(),
                )
                for name, suite in result.suites.items()
                if suite.comparison is not None
            ),
            *(
                f"{name}: {suite.stability}"
                for name, suite in result.suites.items()
                if suite.stability is not None
            ),
            f"run {result.run_id}; {handed}",
        ),
    )


@click.command()
@click.option(
    "--experiment", "experiments", multiple=True, help="Name or id; may be repeated; default: all."
)
@click.option(
    "--path",
    type=TABLE,
    default=Path("monitoring"),
    show_default=True,
    help="The table's folder, or s3://bucket/prefix.",
)
@click.option("--rebuild", is_flag=True, help="Look at every trace again.")
@click.option(
    "--engine",
    type=click.Choice(["local", "spark"]),
    default="local",
    show_default=True,
    help="Where it is built; the table is the same.",
)
@answers
def monitor(
    experiments: tuple[str, ...],
    path: Path | str,
    rebuild: bool,  # noqa: FBT001 - click passes flags
    engine: Literal["local", "spark"],
) -> Answer:
    """Bring the monitoring table up to date with traffic."""
    import mlflow_agent_plugin as agents

    ids = [experiment_id(item) for item in experiments] or None
    table = agents.monitoring_table(ids, path=path, rebuild=rebuild, engine=engine)
    return Answer(table.to_dict(), (table.summary(),))


@click.command()
@click.argument("reference")
@click.argument("table", type=EXISTING_TABLE)
@click.option("--report", type=PATH, metavar="FOLDER", help="Write drift.html and drift.json.")
@click.option("--sessions", type=click.IntRange(1), help="Sessions per window.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Hours per window.")
@click.option(
    "--log", "log_to", metavar="MODEL/VERSION", help="Also log the verdict to MLflow, about this."
)
@answers
def drift(
    reference: str,
    table: Path | str,
    report: Path | None,
    sessions: int | None,
    hours: float | None,
    log_to: str | None,
) -> Answer:
    """Compare traffic in TABLE with REFERENCE.

    Exit 1 if it drifted, or if that cannot be said.

    REFERENCE is the models:/ URI of an evaluated version, runs:/ID of its evaluation, or a parquet
    file. Drift is confirmed only when it shows in two windows one after the other: give --sessions
    or --hours, else all of TABLE is one window.
    """
    from mlflow_agent_plugin.errors import DriftInputError
    from mlflow_agent_plugin.observability import read_table
    from mlflow_agent_plugin.observability.drift import check_drift, check_windows

    if sessions is not None and hours is not None:
        raise click.UsageError("give either --sessions or --hours")
    model, version = (None, None) if log_to is None else model_version(log_to)
    traffic = read_table(table)
    if traffic.empty:
        raise DriftInputError("there is no traffic", where=str(table), hint="Run monitor first.")
    if sessions is None and hours is None:
        verdicts = [check_drift(reference, traffic, report_dir=report)]
    else:
        verdicts = check_windows(
            reference, traffic, sessions=sessions, hours=hours, report_dir=report
        )
    last = verdicts[-1]
    found: dict[str, Any] = {**last.to_dict(), "windows": [item.drifted for item in verdicts]}
    if model is not None:
        from mlflow_agent_plugin.observability import log_drift

        found["run_id"] = log_drift(last, model_name=model, version=version)
    columns = [
        (item.name, item.status.value, item.p_value, item.effect, item.reason)
        for item in last.columns
    ]
    lines = [f"window {at}: {item.summary()}" for at, item in enumerate(verdicts, 1)]
    return Answer(
        found,
        (
            *lines,
            Table(
                "columns of the last window",
                ("column", "status", "p", "effect", "why"),
                [(*row[:2], _short(row[2]), _short(row[3]), row[4]) for row in columns],
            ),
            *([] if last.report is None else [f"report: {last.report}"]),
        ),
        failed=last.drifted is not False,
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


@click.command()
@click.option("--reason", required=True, help="Why; it stands in the audit and the request.")
@click.option("--model", default="support", show_default=True, help="Registered model.")
@click.option(
    "--to", default="Production", show_default=True, metavar="SLOT", help="What it shall go to."
)
@click.option("--project", type=FOLDER, default=Path(), help="The checkout; default: here.")
@click.option("--workspace", type=PATH, help="Where to work; default: build/retrain there.")
@click.option("--labels", type=FILE, help="What people said: labels, or remarks (CSV).")
@click.option("--suite", "suites", multiple=True, type=PATH, help="A suite; may be repeated.")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=read_assignments,
    help="More of the MLproject entry point; may be repeated.",
)
@answers
def retrain(
    reason: str,
    model: str,
    to: str,
    project: Path,
    workspace: Path | None,
    labels: Path | None,
    suites: tuple[Path, ...],
    parameters: dict[str, str],
) -> Answer:
    """Run the retraining pipeline, up to a promotion request."""
    import mlflow_agent_plugin as agents

    result = agents.retrain(
        reason,
        project=project,
        model_name=model,
        to=to,
        workspace=workspace,
        labels=labels,
        suites=suites,
        parameters=parameters,
    )
    return Answer(result.to_dict(), (result.summary(), f"run {result.run_id}"))


@click.command()
@click.option(
    "--dir", "folder", type=PATH, default=Path(".demo"), show_default=True, help="Where it happens."
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes that evaluate.",
)
@answers
def demo(folder: Path, workers: int) -> Answer:
    """Run the whole loop once, on real customer queries.

    Train, evaluate, gate, serve, drift, retrain, roll back.
    """
    from mlflow_agent_plugin.interaction.demo import run_demo

    result = run_demo(folder, workers=workers, quiet=wants_json())
    return Answer(result.to_dict(), failed=not result.ok)


COMMANDS = (evaluate, monitor, drift, retrain, demo)
