"""Check drift in a process of its own: `python -m mlflow_agent_plugin.observability.drift --help`.

Exit codes: 0 no drift, 3 drift confirmed, 4 unknown or waiting for confirmation, 1 an error. The
verdict is printed as JSON on stdout; everything else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.errors import AgentError, ConfigError
from mlflow_agent_plugin.observability.drift.check import check_drift, check_windows
from mlflow_agent_plugin.observability.drift.tracking import last_verdict, log_drift
from mlflow_agent_plugin.observability.drift.verdict import DriftVerdict
from mlflow_agent_plugin.observability.reference import load_reference, resolve_version
from mlflow_agent_plugin.observability.table import read_table

EXIT_CODES = {False: 0, True: 3, None: 4}


@click.command()
@click.option(
    "--reference",
    required=True,
    help="Reference rows: a parquet file, runs:/<evaluation>, or models:/<name>/<version>.",
)
@click.option("--table", "table", required=True, help="Folder of the monitoring table.")
@click.option("--since", help="First moment of the window, ISO 8601 (UTC if no zone is given).")
@click.option("--until", help="End of the window, likewise.")
@click.option("--sessions", type=int, help="Cut the window into windows of this many sessions.")
@click.option("--hours", type=float, help="Cut it into windows of this many hours.")
@click.option("--previous", help="JSON file of the verdict on the window before.")
@click.option("--report-dir", default="build/drift", show_default=True)
@click.option("--log/--no-log", default=True, show_default=True, help="Log to an MLflow run.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever the verdict is.")
@click.option("--experiment", default="drift", show_default=True)
def main(
    reference: str,
    table: str,
    since: str | None,
    until: str | None,
    sessions: int | None,
    hours: float | None,
    previous: str | None,
    report_dir: str,
    *,
    log: bool,
    exit_zero: bool,
    experiment: str,
) -> None:
    """Compare a window of traffic with a version's reference."""
    try:
        name, version = (None, None)
        if reference.startswith("models:/"):
            name, version = resolve_version(reference)
        rows = load_reference(reference)
        current = read_table(table, since=_moment(since), until=_moment(until))
        before = _read_verdict(previous)
        if before is None and log and name is not None and version is not None:
            before = last_verdict(name, version)
        if sessions is not None or hours is not None:
            verdicts = check_windows(
                rows, current, sessions=sessions, hours=hours, report_dir=report_dir
            )
            verdict = verdicts[-1] if verdicts else check_drift(rows, current)
        else:
            verdict = check_drift(rows, current, previous=before, report_dir=report_dir)
        result: dict[str, Any] = verdict.to_dict()
        if log:
            result["run_id"] = log_drift(
                verdict,
                model_name=name,
                version=version,
                experiment=experiment,
                # Set when MLflow runs this as a project: its run is the check's run.
                run_id=os.environ.get("MLFLOW_RUN_ID"),
            )
    except AgentError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    click.echo(verdict.summary(), err=True)
    click.echo(json.dumps(result, sort_keys=True))
    sys.exit(0 if exit_zero else EXIT_CODES[verdict.drifted])


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no ISO 8601 time", where="--since/--until") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _read_verdict(path: str | None) -> DriftVerdict | None:
    if not path:
        return None
    try:
        return DriftVerdict.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from error


if __name__ == "__main__":
    main()
