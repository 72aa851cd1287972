"""Commands for what people say about answers."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import EXISTING_TABLE, FILE, PATH, experiment_id

_out = click.option("--out", type=PATH, required=True, help="CSV file to write.")
_experiments = click.option(
    "--experiment", "experiments", multiple=True, help="Name or id; may be repeated; default: all."
)


@click.group()
def feedback() -> None:
    """What people say about answers, kept on the requests' traces."""


@feedback.command("give")
@click.argument("trace")
@click.option("--thumb", type=click.Choice(["up", "down"]), help="Was the answer good?")
@click.option("--intent", help="What the request really was; a label for the retraining.")
@click.option("--answer", help="What the answer should have been.")
@click.option("--comment", help="Why.")
@click.option("--as", "by", metavar="NAME", required=True, help="Who says so.")
@answers
def feedback_give(
    trace: str,
    thumb: str | None,
    intent: str | None,
    answer: str | None,
    comment: str | None,
    by: str,
) -> Answer:
    """Say whether the answer to TRACE was good, or what it should have been."""
    from mlflow_agent_plugin.lifecycle import correct_request, give_thumb

    if thumb is None and not intent and not answer:
        raise click.UsageError("give --thumb, --intent or --answer")
    if thumb is not None:
        give_thumb(trace, up=thumb == "up", by=by, comment=comment)
    if intent or answer:
        correct_request(trace, by=by, intent=intent, answer=answer, comment=comment)
    return Answer({"trace": trace, "by": by}, (f"kept on {trace}",))


@feedback.command("labels")
@_out
@_experiments
@answers
def feedback_labels(out: Path, experiments: tuple[str, ...]) -> Answer:
    """Write the labelled requests, as `retrain --labels` takes them."""
    from mlflow_agent_plugin.lifecycle import collect_labels, write_labels

    found = collect_labels([experiment_id(item) for item in experiments] or None)
    write_labels(found, out)
    return Answer({"path": str(out), "labels": len(found)}, (f"{len(found)} labels in {out}",))


@feedback.command("table")
@_out
@_experiments
@answers
def feedback_table(out: Path, experiments: tuple[str, ...]) -> Answer:
    """Write all that people said: thumbs, corrections, reviews, one row per request."""
    from mlflow_agent_plugin.lifecycle import collect_feedback, write_labels

    found = collect_feedback([experiment_id(item) for item in experiments] or None)
    write_labels(found, out)
    return Answer({"path": str(out), "requests": len(found)}, (f"{len(found)} rows in {out}",))


@feedback.command("remarks")
@_out
@_experiments
@answers
def feedback_remarks(out: Path, experiments: tuple[str, ...]) -> Answer:
    """Write all that people said: one row per remark, with who and when.

    That is what `retrain --labels` takes, too: its corrections are the labels, and all of it is
    checked and versioned.
    """
    from mlflow_agent_plugin.lifecycle import collect_remarks, write_labels

    found = collect_remarks([experiment_id(item) for item in experiments] or None)
    write_labels(found, out)
    return Answer({"path": str(out), "remarks": len(found)}, (f"{len(found)} rows in {out}",))


@feedback.command("pick")
@click.argument("table", type=EXISTING_TABLE)
@click.option("--count", default=200, show_default=True, type=click.IntRange(1), help="At most.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Only the last hours.")
@_out
@_experiments
@answers
def feedback_pick(
    table: Path | str, count: int, hours: float | None, out: Path, experiments: tuple[str, ...]
) -> Answer:
    """Write the requests in TABLE that are most worth a label, to be filled in by people.

    Those somebody found wrong come first, then those the agent was least sure of; what has a label
    is not asked about again. Fill in the column label and hand the file to `feedback import`.
    """
    from datetime import timedelta

    from mlflow_agent_plugin.entities import utc_now
    from mlflow_agent_plugin.lifecycle import choose_for_labelling, collect_feedback, write_labels
    from mlflow_agent_plugin.observability import read_table

    since = None if hours is None else utc_now() - timedelta(hours=hours)
    said = collect_feedback([experiment_id(item) for item in experiments] or None)
    chosen = choose_for_labelling(read_table(table, since=since), count, feedback=said)
    write_labels(chosen, out)
    return Answer(
        {"path": str(out), "requests": len(chosen)}, (f"{len(chosen)} requests to label in {out}",)
    )


@feedback.command("import")
@click.argument("file", type=FILE)
@click.option("--as", "by", metavar="NAME", required=True, help="Who labelled them.")
@answers
def feedback_import(file: Path, by: str) -> Answer:
    """Keep the labels in FILE (trace_id, label) on their requests' traces; empty ones are skipped.

    Doing it again changes nothing.
    """
    import csv

    from mlflow_agent_plugin.errors import DataError
    from mlflow_agent_plugin.lifecycle import correct_request

    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    missing = [name for name in ("trace_id", "label") if rows and name not in rows[0]]
    if missing:
        raise DataError(
            f"has no column {missing[0]}", where=str(file), hint="Fill in a file of feedback pick."
        )
    given = [row for row in rows if (row["label"] or "").strip()]
    for row in given:
        correct_request(row["trace_id"] or "", by=by, intent=row["label"])
    left = len(rows) - len(given)
    return Answer(
        {"labels": len(given), "empty": left},
        (f"{len(given)} labels kept, {left} rows without one",),
    )


COMMANDS = (feedback,)
