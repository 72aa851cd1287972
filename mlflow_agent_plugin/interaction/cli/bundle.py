"""Commands for authors: validate, log, diff, evaluate, policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.output import (
    json_option,
    print_json,
    print_table,
    quiet_mlflow,
)

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@json_option
@quiet_mlflow
def validate(bundle: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Check everything about BUNDLE that can be wrong before it is logged."""
    import mlflow_agent_plugin as agents

    found = agents.validate(bundle)
    if as_json:
        print_json({"name": found.manifest.name, **found.digest.to_dict()})
        return
    click.echo(f"{found.manifest.name} is in order: {found.digest.value}")
    print_table("components", ("component", "digest"), found.digest.components.items())


@click.command("log")
@click.argument("bundle", type=FOLDER)
@click.option("--name", help="Name of the logged model (default: the agent's).")
@click.option("--register", "registered_model_name", help="Also create a version of this model.")
@json_option
@quiet_mlflow
def log(bundle: Path, name: str | None, registered_model_name: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Log BUNDLE as one MLflow model."""
    import mlflow_agent_plugin as agents

    info = agents.log_agent(bundle, name=name, registered_model_name=registered_model_name)
    result = {
        "model_uri": info.model_uri,
        "run_id": info.run_id,
        "registered_model": registered_model_name,
        "version": info.registered_model_version,
        "digest": (info.metadata or {}).get("agent_digest"),
    }
    if as_json:
        print_json(result)
        return
    print_table("logged", ("what", "value"), result.items())


@click.command()
@click.argument("old")
@click.argument("new")
@json_option
@quiet_mlflow
def diff(old: str, new: str, as_json: bool) -> None:  # noqa: FBT001
    """Show what changed between two agents: folders or MLflow model URIs."""
    import mlflow_agent_plugin as agents

    result = agents.diff(_bundle(old), _bundle(new))
    if as_json:
        print_json(result.to_dict())
    else:
        click.echo(result.to_text())


def _bundle(place: str) -> Any:
    import mlflow_agent_plugin as agents

    if Path(place).is_dir():
        return agents.load_bundle(place)
    from mlflow_agent_plugin.core import fetch_bundle

    return fetch_bundle(place)


@click.command()
@click.argument("model_uri")
@click.option("--suite", "suites", multiple=True, required=True, help="Suite; may be repeated.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option("--seed", default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Evaluate only so many cases.")
@click.option("--submit/--no-submit", default=True, help="Hand the evidence to the registry.")
@json_option
@quiet_mlflow
def evaluate(
    model_uri: str,
    suites: tuple[str, ...],
    workers: int,
    seed: int,
    limit: int | None,
    submit: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Run suites against MODEL_URI and write signed evidence."""
    import mlflow_agent_plugin as agents

    result = agents.evaluate(
        model_uri,
        suites=list(suites),
        workers=workers,
        seed=seed,
        limit=limit,
        submit=submit,
        progress=not as_json,
    )
    if as_json:
        print_json(result.to_dict())
        return
    from rich.console import Console

    Console().print(result.to_table())


@click.group()
def policy() -> None:
    """Test and explain an agent's policies."""


@policy.command("test")
@click.argument("bundle", type=FOLDER)
@json_option
def policy_test(bundle: Path, as_json: bool) -> None:  # noqa: FBT001
    """Run the policy tests of BUNDLE; exit 1 if one fails."""
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import run_policy_tests

    results = run_policy_tests(load_bundle(bundle))
    rows = [
        (r.name, r.expected.value, r.decision.value.value, ", ".join(r.decision.policy_ids),
         r.failure or "ok")
        for r in results
    ]  # fmt: skip
    names = ("case", "expected", "decision", "policies", "result")
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table("policy tests", names, rows)
    if any(r.failure for r in results):
        raise click.exceptions.Exit(1)


@policy.command("explain")
@click.argument("bundle", type=FOLDER)
@click.argument("tool")
@click.option("--arguments", default="{}", show_default=True, help="The call's arguments, JSON.")
@click.option("--actor", "actor_text", help="user[@tenant][:role,role]; default: the local user.")
@click.option("--verified", is_flag=True, help="As if the actor had logged in.")
@click.option("--environment", default="development", show_default=True)
@click.option("--untrusted-seen", is_flag=True, help="As if untrusted output had been read.")
@click.option("--provenance", default="user", show_default=True, help="Of every argument.")
@json_option
def policy_explain(
    bundle: Path,
    tool: str,
    arguments: str,
    actor_text: str | None,
    verified: bool,  # noqa: FBT001
    environment: str,
    untrusted_seen: bool,  # noqa: FBT001
    provenance: str,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say which policies decide one call of TOOL, and what would change the answer."""
    import json
    import time
    from dataclasses import replace

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.entities import PolicyRequest
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import CedarPolicyEngine, local_actor

    try:
        values = json.loads(arguments)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="--arguments") from error
    if not isinstance(values, dict):
        raise click.BadParameter("is not a JSON object", param_hint="--arguments")
    settings = Settings.from_env()
    if actor_text is not None:
        settings = replace(settings, actor=actor_text)
    found = load_bundle(bundle)
    explanation = CedarPolicyEngine.from_bundle(found).explain(
        PolicyRequest(
            actor=replace(local_actor(settings), verified=verified),
            agent=found.manifest.name,
            tool=tool,
            arguments=values,
            session={
                "environment": environment,
                "calls": 1,
                "turn": 1,
                "untrusted_seen": untrusted_seen,
                "now": int(time.time()),
            },
            provenance=dict.fromkeys(values, provenance),
        )
    )
    if as_json:
        print_json(explanation.to_dict())
    else:
        click.echo(explanation.to_text())


COMMANDS = (validate, log, diff, evaluate, policy)
