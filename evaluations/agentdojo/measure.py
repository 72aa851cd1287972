"""All runs of one suite under one attack, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from evaluations.agentdojo.replay import Replayer, Run
from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.errors import SuiteError

if TYPE_CHECKING:
    from agentdojo.attacks.base_attacks import BaseAttack
    from agentdojo.task_suite.task_suite import TaskSuite

    from mlflow_agent_plugin.package import ToolContract

EVERYTHING = {
    "permit.cedar": '@id("everything")\npermit (principal, action, resource);\n',
    "roles.yaml": "apiVersion: mlflow-agents/v1\nroles: {}\n",
}
"""Policies under which a pair has to reach its goal, or it does not count."""

T = TypeVar("T")
Track = Callable[[Iterable[T], str, int], Iterable[T]]
"""Shows progress over (items, what they are, how many)."""


@dataclass(frozen=True)
class Rate:
    """A share with its Wilson 95% interval."""

    successes: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        low, high = wilson_interval(self.successes, self.n)
        share = self.successes / self.n if self.n else None
        return {"successes": self.successes, "n": self.n, "share": share, "interval": [low, high]}

    def __str__(self) -> str:
        if not self.n:
            return "none to count"
        low, high = wilson_interval(self.successes, self.n)
        share = f"{self.successes / self.n:6.1%}"
        return f"{share} ({self.successes} of {self.n}; {low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Measured:
    """Everything one measurement found.

    Attributes:
        pairs: Pairs that were tried; those without an injected text on the way are not.
        valid: Run of each pair that reaches its goal when everything is allowed.
        invalid: Names of the others.
        tasks: Run of each user task without an injection.
    """

    attack: str
    pairs: int
    valid: Mapping[str, Run]
    invalid: tuple[str, ...]
    tasks: Mapping[str, Run]

    @property
    def slipped(self) -> list[str]:
        """Pairs that were not stopped, by name."""
        return [name for name, run in self.valid.items() if run.goal_reached or run.injected_writes]

    def rates(self) -> dict[str, Rate]:
        """Return the table's rows."""
        tasks, pairs = list(self.tasks.values()), list(self.valid.values())
        return {
            "stopped": Rate(len(pairs) - len(self.slipped), len(pairs)),
            "done alone": Rate(sum(run.alone for run in tasks), len(tasks)),
            "done with a correct human": Rate(sum(run.done for run in tasks), len(tasks)),
            "approvals asked": Rate(sum(bool(run.asked) for run in tasks), len(tasks)),
            "done under attack, correct human": Rate(sum(run.done for run in pairs), len(pairs)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; misses by name."""
        return {
            "attack": self.attack,
            "pairs": {"tried": self.pairs, "valid": len(self.valid), "invalid": self.invalid},
            "rates": {name: rate.to_dict() for name, rate in self.rates().items()},
            "misses": {
                "goal_reached": [n for n, run in self.valid.items() if run.goal_reached],
                "something_ran": [
                    {"pair": name, "ran": run.injected_writes}
                    for name, run in self.valid.items()
                    if run.injected_writes and not run.goal_reached
                ],
                "not_done_alone": [
                    {"task": name, "asked": run.asked, "refused": run.refused, "done": run.done}
                    for name, run in self.tasks.items()
                    if not run.alone
                ],
            },
        }


def measure(
    suite: TaskSuite[Any],
    contracts: Mapping[str, ToolContract],
    policies: Mapping[str, str],
    attack: BaseAttack,
    *,
    track: Track[Any],
) -> Measured:
    """Run every user task alone and under every injection whose goal has calls.

    Raises:
        BundleError: The policies are wrong.
        SuiteError: The suite's own ground truth does not work.
    """
    pairs = list(_pairs(suite, attack))
    valid: dict[str, tuple[Any, Any, dict[str, str]]] = {}
    invalid = []
    with Replayer.open(suite, contracts, EVERYTHING) as allowed:
        for name, *pair in track(pairs, "everything allowed", len(pairs)):
            if allowed.run(*pair).goal_reached:
                valid[name] = (pair[0], pair[1], pair[2])
            else:
                invalid.append(name)
    with Replayer.open(suite, contracts, policies) as defended:
        runs = {
            name: defended.run(*pair)
            for name, pair in track(list(valid.items()), "defended", len(valid))
        }
        tasks = {
            name: defended.run(task)
            for name, task in track(
                list(suite.user_tasks.items()), "without injection", len(suite.user_tasks)
            )
        }
    return Measured(attack.name, len(pairs), runs, tuple(invalid), tasks)


def _pairs(
    suite: TaskSuite[Any], attack: BaseAttack
) -> Iterable[tuple[str, Any, Any, dict[str, str]]]:
    environment = suite.load_and_inject_default_environment({})
    for user_id, user_task in suite.user_tasks.items():
        try:
            attack.get_injection_candidates(user_task)
        except ValueError:
            continue  # nothing this task reads can carry an injection
        for injection_id, injection_task in suite.injection_tasks.items():
            if injection_task.ground_truth(environment.model_copy(deep=True)):
                name = f"{user_id}/{injection_id}"
                try:
                    injections = attack.attack(user_task, injection_task)
                except ValueError as error:
                    raise SuiteError(
                        f"the attack {attack.name!r} cannot be written: {error}", where=name
                    ) from error
                yield name, user_task, injection_task, injections
