"""The cases of a suite as pytest items; loaded only when pytest was asked for suites."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlflow_agent_plugin.development.evaluation import fetched, load_suites
from mlflow_agent_plugin.development.pool import Worker
from mlflow_agent_plugin.development.runner import worker_setup
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.suite import Suite

if TYPE_CHECKING:
    from mlflow_agent_plugin.development.case import CaseRun
    from mlflow_agent_plugin.package import Bundle


class CaseFailedError(Exception):
    """A case did not go as its scenario expects."""

    def __init__(self, run: CaseRun) -> None:
        self.run = run
        super().__init__("; ".join(run.result.failures))


class Evaluation:
    """The agent and its suites, open for one pytest session.

    Args:
        bundle: The agent.
        suites: Suites that fit it.
        seed: Seed of the run.
        stack: What to close at the end.
    """

    def __init__(
        self, bundle: Bundle, suites: Sequence[Suite], seed: int, stack: ExitStack
    ) -> None:
        self._bundle = bundle
        self._suites = suites
        self._seed = seed
        self._stack = stack
        self._workers: dict[str, Worker] = {}

    def items(self, session: pytest.Session) -> Iterator[pytest.Item]:
        """Yield one item per case."""
        for suite in self._suites:
            node = SuiteNode.from_parent(
                session, name=suite.name, path=suite.source or Path(suite.name), nodeid=suite.name
            )
            for scenario in suite.scenarios:
                yield CaseItem.from_parent(
                    node, name=scenario.id, scenario=scenario, suite=suite, evaluation=self
                )

    def play(self, suite: Suite, scenario: Scenario) -> CaseRun:
        """Play one case in the suite's worker process."""
        worker = self._workers.get(suite.name)
        if worker is None:
            worker = Worker(worker_setup(self._bundle, suite, self._seed))
            self._workers[suite.name] = worker
        run, good = worker.play(scenario, suite=suite.name)
        if not good:
            del self._workers[suite.name]
        return run

    def close(self) -> None:
        """End the workers; raises if the audit of their cases is broken."""
        with self._stack:
            workers, self._workers = self._workers, {}
            for worker in workers.values():
                worker.close()


class SuiteNode(pytest.Collector):
    """A suite in pytest's tree."""

    def collect(self) -> list[pytest.Item]:
        """Return nothing: the items are made by `Evaluation.items`."""
        return []


class CaseItem(pytest.Item):
    """One case.

    Args:
        scenario: The case.
        suite: Its suite.
        evaluation: Where it is played.
    """

    def __init__(
        self, *, scenario: Scenario, suite: Suite, evaluation: Evaluation, **more: Any
    ) -> None:
        super().__init__(**more)
        self._scenario = scenario
        self._suite = suite
        self._evaluation = evaluation
        for tag in scenario.tags:
            name = re.sub(r"\W", "_", tag)
            if name.isidentifier():
                self.keywords[name] = True

    def runtest(self) -> None:
        """Play the case.

        Raises:
            CaseFailedError: A check failed.
        """
        run = self._evaluation.play(self._suite, self._scenario)
        self.user_properties.append(("agent_outcome", run.result.outcome))
        if not run.result.success:
            raise CaseFailedError(run)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say which checks failed, and what was said and done."""
        if not isinstance(excinfo.value, CaseFailedError):
            return super().repr_failure(excinfo, style)
        run = excinfo.value.run
        lines = [f"case {self._scenario.id} ended {run.result.outcome}:"]
        lines += [f"  - {failure}" for failure in run.result.failures]
        lines += [f"user: {text}" for text in run.result.text.splitlines()]
        lines += [
            f"call: {call['tool']}({call['arguments']}) {call['status']}"
            for call in run.result.calls
        ]
        lines += [f"agent: {run.answer}", f"where: {self._suite.where(self._scenario.id)}"]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the place pytest shows."""
        return self.path, None, f"{self._suite.name}::{self._scenario.id}"


def open_evaluation(agent: str, suites: Sequence[str], seed: int) -> Evaluation:
    """Open the agent and check the suites against it.

    Raises:
        AgentError: The agent cannot be had, or a suite is malformed or does not fit it.
    """
    stack = ExitStack()
    try:
        bundle = stack.enter_context(fetched(agent))
        loaded = load_suites(list(suites), bundle, None, seed)
    except BaseException:
        stack.close()
        raise
    return Evaluation(bundle, loaded, seed, stack)
