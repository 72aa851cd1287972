"""Command line of the harness: ``python -m evaluations.agentdojo --help``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_agent_plugin.errors import AgentError, SuiteError

if TYPE_CHECKING:
    from agentdojo.attacks.base_attacks import BaseAttack
    from agentdojo.task_suite.task_suite import TaskSuite

VERSION = "v1.2.2"
_PIPELINE_NAME = "local"
"""Some attacks address the model by name; AgentDojo knows this one as "Local model"."""


@click.command()
@click.option("--suite", "suite_name", required=True, help="banking, slack, travel or workspace.")
@click.option(
    "--contracts",
    "contracts_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="What each tool does: see docs/how-to/run-agentdojo.md.",
)
@click.option(
    "--policies",
    "policies_path",
    type=click.Path(path_type=Path, file_okay=False),
    help="Policy folder; default: the pack written from the contracts.",
)
@click.option(
    "--attack",
    "attack_name",
    default="important_instructions",
    show_default=True,
    help="Any attack of AgentDojo that needs no model and no person.",
)
@click.option("--version", default=VERSION, show_default=True, help="Version of the suites.")
@click.option(
    "--json",
    "json_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Where the result goes, misses by name.",
)
def main(  # noqa: PLR0913 - one per option
    *,
    suite_name: str,
    contracts_path: Path,
    policies_path: Path | None,
    attack_name: str,
    version: str,
    json_path: Path,
) -> None:
    """Replay an AgentDojo suite against the worst-case adversary, through the tool gateway."""
    logging.getLogger("mlflow_agent_plugin").setLevel(logging.CRITICAL)
    try:
        result = evaluate(suite_name, contracts_path, policies_path, attack_name, version)
    except AgentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(result, json_path)


def evaluate(
    suite_name: str,
    contracts_path: Path,
    policies_path: Path | None = None,
    attack_name: str = "important_instructions",
    version: str = VERSION,
) -> dict[str, Any]:
    """Measure one suite under one attack; see the options.

    Raises:
        SuiteError: AgentDojo is not installed, or suite, attack or contracts are unknown or do not
            fit each other.
        BundleError: The policies are wrong.
    """
    suite = load_suite(suite_name, version)
    attack = load_attack(attack_name, suite)
    from evaluations.agentdojo.contracts import read_contracts
    from evaluations.agentdojo.measure import measure

    notes: list[str] = []
    contracts = read_contracts(contracts_path, suite, notes=notes)
    if policies_path is None:
        from mlflow_agent_plugin.trust.policy.scaffold import scaffold_policies

        policies = scaffold_policies(contracts)
    else:
        policies = read_policies(policies_path)
    measured = measure(suite, contracts, policies, attack, track=_track)
    shown = "the default pack" if policies_path is None else policies_path.name
    return {
        "suite": suite.name,
        "version": version,
        "policies": shown,
        "contracts": contracts_path.name,
        "contract_notes": notes,
        **measured.to_dict(),
    }


def load_suite(name: str, version: str = VERSION) -> TaskSuite[Any]:
    """Load a suite of AgentDojo.

    Raises:
        SuiteError: AgentDojo is not installed, or has no such suite.
    """
    try:
        from agentdojo.task_suite.load_suites import get_suites
    except ImportError as error:
        raise SuiteError(
            f"AgentDojo cannot be imported: {error}",
            where="--suite",
            hint="Install the extra: pip install 'mlflow-agent-plugin[bench]'.",
        ) from error
    suites = get_suites(version)  # an unknown version has no suites
    if not suites:
        raise SuiteError(
            f"AgentDojo has no version {version!r}", where="--version", hint=f"Use {VERSION}."
        )
    if name not in suites:
        raise SuiteError(
            f"AgentDojo {version} has no suite {name!r}",
            where="--suite",
            hint=f"It has {', '.join(sorted(suites))}.",
        )
    suite: TaskSuite[Any] = suites[name]
    return suite


def load_attack(name: str, suite: TaskSuite[Any]) -> BaseAttack:
    """Load an attack that needs neither a model nor a person.

    Raises:
        SuiteError: There is no such attack.
    """
    from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
    from agentdojo.attacks import load_attack as load
    from agentdojo.attacks.attack_registry import ATTACKS

    usable = sorted(
        key for key, kind in ATTACKS.items() if key != "manual" and not kind.is_dos_attack
    )
    if name not in usable:
        raise SuiteError(
            f"there is no attack {name!r} that a replay can use",
            where="--attack",
            hint=f"Use one of {', '.join(usable)}.",
        )

    class Target(BasePipelineElement):
        """What the attack addresses; it is never asked anything."""

        name = _PIPELINE_NAME

        def query(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    return load(name, suite, Target())


def read_policies(folder: Path) -> dict[str, str]:
    """Return the files of a policy folder, file name to text.

    Raises:
        SuiteError: It has no policies.
    """
    found = {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("*"))
        if path.suffix in (".cedar", ".yaml")
    }
    if not any(name.endswith(".cedar") for name in found):
        raise SuiteError(
            "holds no .cedar file",
            where=str(folder),
            hint="It has to look like the policies folder of an agent.",
        )
    return found


def _track(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total=total, console=Console(stderr=True), transient=True)


def _print(result: dict[str, Any], json_path: Path) -> None:
    from evaluations.agentdojo.measure import Rate

    for note in result["contract_notes"]:
        click.echo(f"note: {note}", err=True)
    pairs = result["pairs"]
    click.echo(
        f"AgentDojo {result['version']} {result['suite']}, attack {result['attack']}, "
        f"{result['policies']}: {pairs['valid']} valid pairs of {pairs['tried']}"
    )
    for name, rate in result["rates"].items():
        click.echo(f"  {name:33} {Rate(rate['successes'], rate['n'])}")
    click.echo(f"Misses by name: {json_path}")


if __name__ == "__main__":
    main()
