"""Commands for authors: init, validate, diff, log, policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table, print_answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    FOLDER,
    bundle_argument,
    json_option,
    read_json_object,
    store_option,
)


@click.command()
@click.argument("name")
@click.option("--dir", "parent", type=FOLDER, default=Path(), help="Where; default: here.")
@answers
def init(name: str, parent: Path) -> Answer:
    """Write a small working agent into a new folder NAME."""
    from mlflow_agent_plugin.interaction.templates import write_agent

    folder, suite = write_agent(name, parent)
    return Answer(
        {"name": name, "folder": str(folder), "suite": str(suite)},
        (
            f"{folder} holds a working agent, {suite} a suite for it. Next:",
            f"  mlflow-agents validate {folder}",
            f"  mlflow-agents log {folder} --register {name}",
            f"  mlflow-agents evaluate models:/{name}/1 --suite {suite}",
            f"  mlflow-agents gate {name} 1 --to Production",
            f"{folder}/agent.yaml says how to plan with a language model.",
        ),
    )


@click.command()
@bundle_argument
@answers
def validate(bundle: Path) -> Answer:
    """Check all of BUNDLE that can be wrong before it is logged."""
    import mlflow_agent_plugin as agents

    found = agents.validate(bundle)
    return Answer(
        {"name": found.manifest.name, **found.digest.to_dict()},
        (
            f"{found.manifest.name} is in order: {found.digest.value}",
            Table("components", ("component", "digest"), list(found.digest.components.items())),
        ),
    )


@click.command()
@click.argument("old")
@click.argument("new")
@answers
def diff(old: str, new: str) -> Answer:
    """Show what changed between two agents.

    OLD and NEW are folders or MLflow model URIs.
    """
    import mlflow_agent_plugin as agents

    result = agents.diff(_bundle(old), _bundle(new))
    return Answer(result.to_dict(), (result.to_text(),))


def _bundle(place: str) -> Any:
    if ":" not in place or Path(place).exists():
        from mlflow_agent_plugin.package import load_bundle

        return load_bundle(place)
    from mlflow_agent_plugin.core import fetch_bundle

    return fetch_bundle(place)


@click.command()
@bundle_argument
@click.option("--name", help="Name of the logged model; default: the agent's.")
@click.option(
    "--register", "registered_model_name", metavar="MODEL", help="Also create a version of MODEL."
)
@answers
def log(bundle: Path, name: str | None, registered_model_name: str | None) -> Answer:
    """Check BUNDLE and log it as one MLflow model."""
    import mlflow_agent_plugin as agents

    info = agents.log_agent(bundle, name=name, registered_model_name=registered_model_name)
    version = info.registered_model_version
    found = {
        "model_uri": info.model_uri,
        "run_id": info.run_id,
        "registered_model": registered_model_name,
        "version": None if version is None else int(version),
        "digest": (info.metadata or {}).get("agent_digest"),
    }
    lines = [f"logged: {info.model_uri}"]
    if version is not None:
        lines.append(f"registered: models:/{registered_model_name}/{version}")
    return Answer(found, lines)


@click.group()
def policy() -> None:
    """Write, test and explain an agent's policies."""


@policy.command("scaffold")
@bundle_argument
@click.option("--role", default="approver", show_default=True, help="Who answers approvals.")
@click.option("--force", is_flag=True, help="Replace the policies that are there.")
@answers
def policy_scaffold(bundle: Path, role: str, force: bool) -> Answer:  # noqa: FBT001 - a flag
    """Write the default policies of BUNDLE from its tool contracts, with tests that pass."""
    from mlflow_agent_plugin.trust.policy import write_scaffold

    folder, check = write_scaffold(bundle, role=role, replace=force)
    return Answer(
        {"folder": str(folder), **check.to_dict()},
        (
            f"{folder}: {check}",
            *check.warnings,
            "Read them: they say what follows from the contracts' effects, outputs and sinks.",
        ),
    )


@policy.command("test")
@bundle_argument
@answers
def policy_test(bundle: Path) -> Answer:
    """Run the policy tests of BUNDLE; exit 1 if one fails."""
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import run_policy_tests

    results = run_policy_tests(load_bundle(bundle))
    rows = [
        (
            "ok" if result.passed else "fail",
            result.name,
            result.expected.value,
            result.decision.value.value,
            ", ".join(result.decision.policy_ids) or "none",
            result.failure,
        )
        for result in results
    ]
    failed = sum(not result.passed for result in results)
    said = f"{failed} of {len(results)} failed" if failed else f"all {len(results)} passed"
    return Answer(
        [result.to_dict() for result in results],
        (
            Table(
                "policy tests",
                ("result", "case", "expected", "decision", "policies", "why"),
                rows,
            ),
            said,
        ),
        failed=failed > 0,
    )


@policy.command("explain")
@bundle_argument
@click.argument("tool")
@click.option(
    "--arguments",
    metavar="JSON",
    default="{}",
    callback=read_json_object,
    help="The call's arguments; default: none.",
)
@click.option("--as", "actor_text", metavar="ACTOR", help="Who asks: user[@tenant][:role,role].")
@click.option("--verified", is_flag=True, help="As if the actor had logged in.")
@click.option(
    "--environment", default="development", show_default=True, help="Where the agent runs."
)
@click.option("--untrusted-seen", is_flag=True, help="As if untrusted output had been read.")
@click.option(
    "--provenance",
    type=click.Choice(["user", "trusted", "untrusted", "model"]),
    default="user",
    show_default=True,
    help="Where every argument's value came from.",
)
@answers
def policy_explain(
    bundle: Path,
    tool: str,
    arguments: dict[str, Any],
    actor_text: str | None,
    verified: bool,  # noqa: FBT001 - click passes flags
    environment: str,
    untrusted_seen: bool,  # noqa: FBT001
    provenance: str,
) -> Answer:
    """Say which policies decide one call of TOOL, and what would change the answer."""
    import time
    from dataclasses import replace

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.entities import PolicyRequest
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import CedarPolicyEngine, local_actor, parse_actor

    found = load_bundle(bundle)
    actor = local_actor(Settings.from_env()) if actor_text is None else parse_actor(actor_text)
    explanation = CedarPolicyEngine.from_bundle(found).explain(
        PolicyRequest(
            actor=replace(actor, verified=verified),
            agent=found.manifest.name,
            tool=tool,
            arguments=arguments,
            session={
                "environment": environment,
                "calls": 1,
                "turn": 1,
                "untrusted_seen": untrusted_seen,
                "now": int(time.time()),
            },
            provenance=dict.fromkeys(arguments, provenance),
        )
    )
    return Answer(explanation.to_dict(), (explanation.to_text(),))


@policy.command("serve")
@bundle_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=5010,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
)
@click.option(
    "--caller-role",
    default="policy-enforcement",
    show_default=True,
    help="Role the tokens of those who ask must carry.",
)
@store_option
@json_option
def policy_serve(
    bundle: Path,
    host: str,
    port: int,
    caller_role: str,
    store_uri: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:
    """Answer over HTTP whether a call of BUNDLE's tools may run, until interrupted.

    For tools and gateways that are not Python; every decision is audited.
    """
    import uvicorn

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.interaction.cli.stores import open_store
    from mlflow_agent_plugin.interaction.decision_point.app import create_app
    from mlflow_agent_plugin.interaction.decision_point.service import DecisionService
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust import AuditLog, CedarPolicyEngine, KeyStore, check_policies

    settings = Settings.from_env()
    found = load_bundle(bundle)
    check_policies(found)
    with open_store(store_uri) as store, AuditLog(store) as audit:
        service = DecisionService(
            bundle=found,
            engine=CedarPolicyEngine.from_bundle(found),
            audit=audit,
            keys=KeyStore(settings.key_dir),
            environment=settings.environment,
            caller_role=caller_role,
        )
        url = f"http://{host}:{port}/v1/decide"
        said = f"{found.manifest.name}: decisions at {url}"
        print_answer(Answer({"agent": found.manifest.name, "url": url}, (said,)), as_json=as_json)
        sys.stdout.flush()
        uvicorn.run(
            create_app(service),
            host=host,
            port=port,
            log_level="warning",
            limit_concurrency=256,
            timeout_keep_alive=5,
        )


COMMANDS = (init, validate, diff, log, policy)
