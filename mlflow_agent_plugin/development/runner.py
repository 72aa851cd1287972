"""Plays a whole suite: in processes, resumable, with progress; the same results every time.

Rules:
- The results are sorted by case id and hold no times: same agent, suite and seed, same bytes,
  whatever the number of workers and however often the run was interrupted.
- With ``workers=0`` the cases are played in this process and thread, for a debugger; a case that
  hangs or kills the process is then not survived.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mlflow_agent_plugin.development.case import CasePlayer, CaseRun, stopped_case
from mlflow_agent_plugin.development.journal import Journal, open_journal
from mlflow_agent_plugin.development.pool import WorkerPool
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.suite import Suite, check_suite
from mlflow_agent_plugin.development.worker import verified_audit
from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.store import Store

if TYPE_CHECKING:
    from mlflow_agent_plugin.development.spark import SparkPool
    from mlflow_agent_plugin.package import Bundle

Engine = Literal["processes", "spark"]
"""Where cases are played."""

Progress = Callable[[str, int, int], None]
"""Called with (suite name, cases done, cases in all)."""


@dataclass(frozen=True)
class SuiteRun:
    """A played suite.

    Attributes:
        suite: The suite.
        runs: One for each scenario, sorted by case id.
        seconds: Wall-clock time of this run.
        resumed: Cases taken over from an interrupted run.
        audit_events: Audit events of the cases played now, their chains verified.
    """

    suite: Suite
    runs: tuple[CaseRun, ...]
    seconds: float
    resumed: int
    audit_events: int


@contextlib.contextmanager
def run_suite(
    bundle: Bundle,
    suite: Suite,
    *,
    workers: int = 1,
    engine: Engine = "processes",
    seed: int = 0,
    progress: bool | Progress = True,
    journal_dir: Path | None = None,
) -> Iterator[SuiteRun]:
    """Play every scenario of `suite`; the journal goes when the block ends without an error.

    Args:
        bundle: The agent; its code runs in the workers.
        suite: The suite.
        workers: Processes; 0 plays in this process.
        engine: "processes" on this machine, or "spark" (its parallelism counts, not `workers`).
        seed: Seed of the run.
        progress: Show a progress bar on standard error, or call this.
        journal_dir: Folder of journals; default: beside the keys.

    Raises:
        SuiteError: The suite names what the agent does not have.
        AgentError: The agent cannot be opened.
        PipelineError: The same evaluation is running already.
    """
    if workers < 0:
        raise SuiteError(f"workers must be at least 0, not {workers}", where="workers")
    if engine not in get_args(Engine):
        raise SuiteError(
            f"there is no engine {engine!r}",
            where="engine",
            hint=f"Use {' or '.join(get_args(Engine))}.",
        )
    check_suite(suite, bundle)
    started = time.perf_counter()
    with open_journal(
        agent_digest=bundle.digest.value,
        suite_digest=suite.digest,
        seed=seed,
        folder=journal_dir,
    ) as journal:
        resumed = len(journal.runs)
        todo = [scenario for scenario in suite.scenarios if scenario.id not in journal.runs]
        with _shown(progress, suite.name, len(suite), resumed) as step:
            audit_events = _play(bundle, suite, todo, journal, workers, engine, seed, step)
        yield SuiteRun(
            suite=suite,
            runs=tuple(journal.runs[scenario.id] for scenario in suite.scenarios),
            seconds=time.perf_counter() - started,
            resumed=resumed,
            audit_events=audit_events,
        )
        journal.discard()


def worker_setup(bundle: Bundle, suite: Suite, seed: int) -> dict[str, Any]:
    """Return what a worker process needs to know to play cases of `suite`."""
    return {
        "bundle": str(bundle.root),
        "agent_digest": bundle.digest.value,
        "suite": suite.name,
        "now": suite.now.isoformat(),
        "environment": suite.environment,
        "seed": seed,
    }


def _play(
    bundle: Bundle,
    suite: Suite,
    todo: Sequence[Scenario],
    journal: Journal,
    workers: int,
    engine: Engine,
    seed: int,
    step: Callable[[], None],
) -> int:
    if not todo:
        return 0
    if workers == 0 and engine == "processes":
        here = _Here(bundle, suite, seed)
        for scenario in todo:
            journal.add(here.play(scenario))
            step()
        return here.close()
    setup = worker_setup(bundle, suite, seed)
    pool: WorkerPool | SparkPool
    if engine == "spark":
        from mlflow_agent_plugin.development.spark import SparkPool

        pool = SparkPool(bundle, setup, suite=suite.name)
    else:
        pool = WorkerPool(setup, suite=suite.name, workers=workers)
    for run in pool.play(todo):
        journal.add(run)
        step()
    return pool.audit_events


class _Here:
    """Plays in this process, in this thread: a debugger can follow; a hang cannot be stopped."""

    def __init__(self, bundle: Bundle, suite: Suite, seed: int) -> None:
        self._suite = suite
        self._store = Store.open("sqlite://")
        self._player = CasePlayer(
            bundle,
            store=self._store,
            suite=suite.name,
            now=suite.now,
            environment=suite.environment,
            seed=seed,
        )

    def play(self, scenario: Scenario) -> CaseRun:
        run = self._player.play(scenario)
        if run.seconds <= scenario.max_seconds:
            return run
        why = f"it took longer than {scenario.max_seconds:g} seconds"
        return stopped_case(scenario, why, suite=self._suite.name, seconds=run.seconds)

    def close(self) -> int:
        self._player.close()
        with self._store:
            return int(verified_audit(self._store)["audit_events"])


@contextlib.contextmanager
def _shown(
    progress: bool | Progress,  # noqa: FBT001 - one of its values is a function
    name: str,
    total: int,
    done: int,
) -> Iterator[Callable[[], None]]:
    if callable(progress):
        count = [done]

        def tell() -> None:
            count[0] += 1
            progress(name, count[0], total)

        yield tell
    elif not progress:
        yield lambda: None
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as Bar,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(file=sys.stderr)) as bar:
            task = bar.add_task(f"evaluate {name}", total=total, completed=done)
            yield lambda: bar.advance(task)
