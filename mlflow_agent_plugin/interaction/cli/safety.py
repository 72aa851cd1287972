"""The command that attacks an agent: safety."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers, wants_json
from mlflow_agent_plugin.interaction.cli.options import PATH, bundle_argument


@click.command()
@bundle_argument
@click.option(
    "--suite", "suites", metavar="PATH", multiple=True, help="More safety cases; may be repeated."
)
@click.option("--out", type=PATH, help="Also write the generated suite here (….jsonl).")
@answers
def safety(bundle: Path, suites: tuple[str, ...], out: Path | None) -> Answer:
    """Attack BUNDLE with its model in an attacker's hand.

    Exit 1 if anything slips through. The cases follow from its contracts and policies. To have
    them count at the gate, write them with --out and evaluate a version on them.
    """
    from mlflow_agent_plugin.development.runner import run_suite
    from mlflow_agent_plugin.development.safety import safety_suite, safety_table
    from mlflow_agent_plugin.development.suite import load_suite, write_suite
    from mlflow_agent_plugin.package import load_bundle

    found = load_bundle(bundle)
    generated = safety_suite(found)
    if out is not None:
        write_suite(generated, out)
    results = []
    for suite in (generated, *map(load_suite, suites)):
        with (
            tempfile.TemporaryDirectory() as folder,
            run_suite(
                found, suite, workers=0, progress=not wants_json(), journal_dir=Path(folder)
            ) as run,
        ):
            results += [case.result for case in run.runs]
    rows = safety_table(results)
    slipped = [name for row in rows for name in row.slipped_cases]
    said = f"{len(slipped)} slipped: {', '.join(slipped)}" if slipped else "nothing slipped through"
    return Answer(
        {"agent": found.manifest.name, "rows": [row.to_dict() for row in rows]},
        (
            Table(
                "safety",
                ("kind", "attempts", "blocked", "to a human", "slipped"),
                [
                    (row.kind.value, row.attempts, row.blocked, row.to_a_human, row.slipped)
                    for row in rows
                ],
            ),
            said,
        ),
        failed=bool(slipped),
    )


COMMANDS = (safety,)
