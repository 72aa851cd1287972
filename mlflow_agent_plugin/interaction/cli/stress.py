"""Commands that measure a served agent, and make suites from what it did: load, traces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers, wants_json
from mlflow_agent_plugin.interaction.cli.options import FILE, PATH, experiment_id


@click.command()
@click.argument("url")
@click.option("--profile", type=FILE, required=True, help="The load profile, YAML.")
@click.option("--model", "model_uri", metavar="URI", help="The model served there.")
@click.option("--path", default="/invocations", show_default=True, help="Path of the endpoint.")
@click.option("--token-variable", metavar="NAME", help="Environment variable with a bearer token.")
@click.option("--experiment", help="Name of the MLflow experiment.")
@click.option("--submit/--no-submit", default=True, help="Hand the evidence to the registry.")
@answers
def load(
    url: str,
    profile: Path,
    model_uri: str | None,
    path: str,
    token_variable: str | None,
    experiment: str | None,
    submit: bool,  # noqa: FBT001 - click passes flags
) -> Answer:
    """Put load on the agent served at URL and sign what it bore.

    With --model the server has to serve exactly that content, and a registered version gets the
    evidence.
    """
    from mlflow_agent_plugin.development.load import run_load
    from mlflow_agent_plugin.development.load.report import HEADINGS, level_rows

    result = run_load(
        url,
        profile,
        model_uri=model_uri,
        path=path,
        token_variable=token_variable,
        experiment=experiment,
        submit=submit,
        progress=None if wants_json() else _tell,
    )
    handed = (
        f"evidence handed in for {result.submitted}"
        if result.submitted
        else "evidence not handed in"
    )
    return Answer(
        result.to_dict(),
        (
            Table(
                f"{result.agent} ({result.digest[:19]}…) under {result.profile}",
                HEADINGS,
                level_rows(result.levels),
            ),
            f"run {result.run_id}; {handed}",
        ),
    )


def _tell(state: Mapping[str, Any]) -> None:
    if int(state["seconds"]) % 10 == 0:
        click.echo(
            f"{state['seconds']:.0f} of {state['total']:.0f} s: {state['ended']} of "
            f"{state['sent']} requests ended, {state['failed']} failed",
            err=True,
        )


@click.group()
def traces() -> None:
    """Work with MLflow's traces of an agent."""


@traces.command("to-suite")
@click.argument("agent")
@click.argument("suite", type=PATH)
@click.option("--trace", "trace_ids", multiple=True, metavar="ID", help="May be repeated.")
@click.option("--filter", "filter_string", metavar="TEXT", help="As for MLflow's trace search.")
@click.option("--experiment", "experiments", multiple=True, help="Name or id; may be repeated.")
@click.option("--limit", default=100, show_default=True, help="Traces a filter finds at most.")
@click.option("--name", help="Name of the suite; default: the file's.")
@click.option("--role", "roles", multiple=True, help="A role the users have; may be repeated.")
@answers
def traces_to_suite(
    agent: str,
    suite: Path,
    trace_ids: tuple[str, ...],
    filter_string: str | None,
    experiments: tuple[str, ...],
    limit: int,
    name: str | None,
    roles: tuple[str, ...],
) -> Answer:
    """Turn traces of AGENT into the scenarios of SUITE, a .jsonl file.

    Personal data is masked, sessions that say the same are merged, tools answer as they did then.
    Look at the suite before you rely on it: it says what the agent did.
    """
    from mlflow_agent_plugin.development.evaluation import fetched
    from mlflow_agent_plugin.development.regression import find_traces, suite_from_traces
    from mlflow_agent_plugin.development.suite import write_suite

    found = find_traces(
        trace_ids=trace_ids,
        filter_string=filter_string,
        experiment_ids=[experiment_id(item) for item in experiments],
        limit=limit,
    )
    with fetched(agent) as bundle:
        made = suite_from_traces(found, bundle, name=name or suite.stem, roles=roles)
    write_suite(made.suite, suite)
    return Answer(
        {**made.to_dict(), "file": str(suite)},
        (
            f"{suite}: {made.summary()}",
            Table("left out", ("session", "why"), list(made.skipped.items())),
        ),
    )


COMMANDS = (load, traces)
