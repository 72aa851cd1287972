"""Suites in anybody's pytest: one test per case (entry point ``pytest11``).

    pytest --mlflow-agent models:/support@champion --mlflow-suite evaluations/support

Rules:
- Without these options nothing happens: this module imports nothing but pytest, and its hooks
  return at once.
- The options have names nobody else will take: two plugins with one option end every pytest run.
  ``--agent``, ``--suite`` and ``--seed`` mean the same where no other plugin or conftest has them.
- With these options and no path, only the suites run; with paths, those tests as well.
- A case is a test like any other for ``-k`` (its tags count as names), ``-x``, ``--lf`` and
  pytest-xdist. A suite that does not fit the agent is one usage error before any test runs.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlflow_agent_plugin.development.pytest_cases import Evaluation

AGENT = "mlflow_agents_agent"
SUITES = "mlflow_agents_suites"
SEED = "mlflow_agents_seed"
_SHORT = {"--agent": "--mlflow-agent", "--suite": "--mlflow-suite", "--seed": "--mlflow-seed"}
_OPEN: pytest.StashKey[Evaluation] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("mlflow-agents", "evaluate an agent, one test per case")
    group.addoption(
        "--mlflow-agent", dest=AGENT, metavar="URI", help="model URI or folder of the agent"
    )
    group.addoption(
        "--mlflow-suite", dest=SUITES, metavar="PATH", action="append", default=[],
        help="suite file or folder; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--mlflow-seed", dest=SEED, type=int, default=0, help="seed of faults and models"
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Spell the short options out, now that everybody else has named theirs."""
    yield
    given = {arg.partition("=")[0] for arg in args if arg.startswith("--")}
    if not {"--agent", "--suite"} <= given:
        return  # one alone may be somebody's own
    _, unknown = parser.parse_known_and_unknown_args(list(args))
    free = {arg.partition("=")[0] for arg in unknown} & set(_SHORT)
    for at, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in free:
            args[at] = f"{_SHORT[name]}{equals}{value}"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse half of the options."""
    agent, suites = config.getoption(AGENT, None), config.getoption(SUITES, None)
    if agent and not suites:
        raise pytest.UsageError("--mlflow-agent needs --mlflow-suite")
    if suites and not agent:
        raise pytest.UsageError("--mlflow-suite needs --mlflow-agent")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the usual tests alone when only suites were asked for."""
    del collection_path
    asked = config.getoption(AGENT, None)
    return True if asked and config.args_source is not pytest.Config.ArgsSource.ARGS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add one item per case, before -k and -m choose."""
    config = session.config
    agent = config.getoption(AGENT, None)
    if not agent:
        return
    from mlflow_agent_plugin.development.pytest_cases import open_evaluation
    from mlflow_agent_plugin.errors import AgentError

    try:
        evaluation = open_evaluation(agent, config.getoption(SUITES), config.getoption(SEED))
    except AgentError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_OPEN] = evaluation
    items.extend(evaluation.items(session))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the worker processes; a broken audit fails the session."""
    evaluation = session.config.stash.get(_OPEN, None)
    if evaluation is not None:
        evaluation.close()
