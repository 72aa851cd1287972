"""Commands that go on beside a service: its telemetry on disk, the triggers of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers, wants_json
from mlflow_agent_plugin.interaction.cli.options import (
    FILE,
    FOLDER,
    TABLE,
    model_version,
    store_option,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.lifecycle.triggers import Signals, TriggerDecision
    from mlflow_agent_plugin.lifecycle.watching import Look
    from mlflow_agent_plugin.observability.spool import SpoolQueue


@click.group()
def spool() -> None:
    """Traces on this machine that wait for the tracking server."""


@spool.command("status")
@answers
def spool_status() -> Answer:
    """Say what waits for the tracking server; exit 1 if traces were set aside or dropped."""
    queue, uri = _queue()
    state = queue.state()
    refusals = queue.refusals()
    tables = [Table("set aside", ("trace", "why"), refusals)] if refusals else []
    return Answer(
        {"path": str(queue.path), **state.to_dict(), "refusals": dict(refusals)},
        (f"{_shown(uri)}: {state.summary()}", *tables),
        failed=bool(state.refused or state.dropped or state.dropped_incidents),
    )


@spool.command("drain")
@click.option("--retry", is_flag=True, help="Send what was set aside again, too.")
@click.option(
    "--wait",
    "wait_seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Seconds to wait for another process that is draining.",
)
@answers
def spool_drain(retry: bool, wait_seconds: float) -> Answer:  # noqa: FBT001 - click passes flags
    """Send what waits now; exit 1 if the tracking server does not take it."""
    from mlflow_agent_plugin.errors import SpoolError
    from mlflow_agent_plugin.observability.spool import LinkAwayError, MlflowReceiver, drain_now

    queue, uri = _queue()
    again = queue.retry_refused() if retry else 0
    try:
        arrived = drain_now(queue, MlflowReceiver(uri), wait_seconds=wait_seconds)
    except LinkAwayError as error:
        raise SpoolError(
            f"the tracking server takes nothing: {error}",
            where=str(queue.path),
            hint="Nothing is lost; try again when it is back.",
        ) from error
    state = queue.state()
    return Answer(
        {"path": str(queue.path), "arrived": arrived, "retried": again, **state.to_dict()},
        (f"{arrived} traces arrived; {state.summary()}",),
        failed=bool(state.waiting or state.refused),
    )


def _queue() -> tuple[SpoolQueue, str]:
    import mlflow

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import open_queue

    uri = str(mlflow.get_tracking_uri())
    return open_queue(Settings.from_env(), uri), uri


def _shown(uri: str) -> str:
    """Return an address without the user and password in it."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="")) if parts.netloc else uri


@click.command()
@click.argument("model")
@click.option("--policy", type=FILE, required=True, help="The rules (pipelines/triggers.yaml).")
@click.option(
    "--to", default="Production", show_default=True, metavar="SLOT", help="Where it serves."
)
@click.option(
    "--table",
    type=TABLE,
    default=Path("monitoring"),
    show_default=True,
    help="The monitoring table's folder, or s3://bucket/prefix.",
)
@click.option(
    "--hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Hours per window.",
)
@click.option(
    "--windows",
    default=7,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Windows looked at.",
)
@click.option(
    "--interval",
    default=900.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once (from cron).")
@click.option("--dry-run", is_flag=True, help="Decide and record; start nothing.")
@click.option("--drift/--no-drift", default=True, help="Judge drift, too.")
@click.option(
    "--environment",
    type=FILE,
    metavar="FILE",
    help="Where tools and knowledge live: look at them, too.",
)
@click.option("--project", type=FOLDER, default=Path(), help="The checkout; default: here.")
@store_option
@answers
def watch(
    model: str,
    policy: Path,
    to: str,
    table: Path | str,
    hours: float,
    windows: int,
    interval: float,
    once: bool,  # noqa: FBT001 - click passes flags
    dry_run: bool,  # noqa: FBT001
    drift: bool,  # noqa: FBT001
    environment: Path | None,
    project: Path,
    store_uri: str | None,
) -> Answer:
    """Watch the traffic of MODEL and retrain it when the rules say so.

    Any number of watchers may run, on any machine that shares the runtime store: one looks at a
    time. What comes out waits for a reviewer.
    """
    from mlflow_agent_plugin.lifecycle import collect_remarks, load_policy, retrain
    from mlflow_agent_plugin.lifecycle.watching import Watcher, gather_signals, version_in
    from mlflow_agent_plugin.observability.environment import load_sources
    from mlflow_agent_plugin.store import Store

    rules = load_policy(policy)
    outside = None if environment is None else load_sources(environment)

    def gather() -> Signals:
        version = version_in(model, to)
        return gather_signals(
            model,
            version,
            table=table,
            hours=hours,
            windows=windows,
            drift=drift,
            environment=outside,
        )

    def start(decision: TriggerDecision, _signals: Signals) -> Any:
        return retrain(
            decision,
            project=project,
            model_name=model,
            to=to,
            labels=collect_remarks(),
            store=store,
        )

    with Store.open(store_uri) as store:
        watcher = Watcher(
            rules,
            model_name=model,
            store=store,
            gather=gather,
            start=None if dry_run else start,
            interval_seconds=interval,
        )
        if once:
            try:
                return _look_answer(watcher.look())
            finally:
                watcher.close()
        watcher.run(said=lambda look: None if wants_json() else click.echo(look.summary()))
    return Answer({"stopped": True})


def _look_answer(look: Look) -> Answer:
    found: dict[str, Any] = {
        "held_elsewhere": look.decision is None,
        "decision": None if look.decision is None else look.decision.to_dict(),
        "result": None if look.result is None else look.result.to_dict(),
    }
    rows = [] if look.decision is None else look.decision.results
    table = Table(
        "rules", ("rule", "status", "why"), [(r.rule, r.status.value, r.reason) for r in rows]
    )
    return Answer(found, (look.summary(), *([table] if rows else [])))


@click.command()
@click.argument("model_uri")
@click.option(
    "--sources", type=FILE, required=True, help="Where tools and knowledge live (environment.yaml)."
)
@click.option(
    "--log", "log_to", metavar="MODEL/VERSION", help="Also log the verdict to MLflow, about this."
)
@answers
def environment(model_uri: str, sources: Path, log_to: str | None) -> Answer:
    """Compare tools and knowledge outside with what MODEL_URI was built against.

    Exit 1 if something changed, or if that cannot be said. MODEL_URI is any MLflow model URI of an
    agent, or an agent's folder. Nothing is called: APIs and MCP servers are asked what they offer.
    """
    from mlflow_agent_plugin.lifecycle.environment import read_pins
    from mlflow_agent_plugin.observability.environment import (
        check_environment,
        load_sources,
        log_environment,
    )

    about = None if log_to is None else model_version(log_to)
    verdict = check_environment(read_pins(model_uri), load_sources(sources))
    found = verdict.to_dict()
    if about is not None:
        found["run_id"] = log_environment(verdict, model_name=about[0], version=about[1])
    rows = [
        (part.kind.value, part.name, part.status.value, "; ".join((*part.reasons, *part.notes)))
        for part in verdict.parts
    ]
    unwatched = [f"no source given for {', '.join(verdict.unwatched)}"] if verdict.unwatched else []
    return Answer(
        found,
        (
            verdict.summary().split(":")[0],
            Table("parts", ("kind", "name", "status", "why"), rows),
            *unwatched,
        ),
        failed=verdict.changed is not False,
    )


COMMANDS = (watch, environment, spool)
