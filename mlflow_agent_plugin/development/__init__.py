"""Find out what an agent does before it is let near anybody: suites, runs, statistics, evidence.

>>> suite = load_suite("evaluations/support")  # checked: file, line and field of what is wrong
>>> result = evaluate("models:/support/3", [suite], workers=2)
>>> print(result.to_table())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "evaluate": "evaluation",
    "load_results": "evaluation",
    "compare": "comparison",
    "Comparison": "comparison",
    "EvaluationResult": "results",
    "SuiteResult": "results",
    "register_suite": "datasets",
    "run_suite": "runner",
    "Matcher": "matching",
    "Expectation": "scenario",
    "Fault": "scenario",
    "FaultKind": "scenario",
    "Scenario": "scenario",
    "Suite": "suite",
    "check_suite": "suite",
    "load_suite": "suite",
    "write_scenarios": "suite",
    "write_suite": "suite",
}

__all__ = sorted(_LAZY)  # noqa: PLE0605 - the names are the keys above

if TYPE_CHECKING:
    from mlflow_agent_plugin.development.comparison import Comparison as Comparison
    from mlflow_agent_plugin.development.comparison import compare as compare
    from mlflow_agent_plugin.development.datasets import register_suite as register_suite
    from mlflow_agent_plugin.development.evaluation import evaluate as evaluate
    from mlflow_agent_plugin.development.evaluation import load_results as load_results
    from mlflow_agent_plugin.development.matching import Matcher as Matcher
    from mlflow_agent_plugin.development.results import EvaluationResult as EvaluationResult
    from mlflow_agent_plugin.development.results import SuiteResult as SuiteResult
    from mlflow_agent_plugin.development.runner import run_suite as run_suite
    from mlflow_agent_plugin.development.scenario import Expectation as Expectation
    from mlflow_agent_plugin.development.scenario import Fault as Fault
    from mlflow_agent_plugin.development.scenario import FaultKind as FaultKind
    from mlflow_agent_plugin.development.scenario import Scenario as Scenario
    from mlflow_agent_plugin.development.suite import Suite as Suite
    from mlflow_agent_plugin.development.suite import check_suite as check_suite
    from mlflow_agent_plugin.development.suite import load_suite as load_suite
    from mlflow_agent_plugin.development.suite import write_scenarios as write_scenarios
    from mlflow_agent_plugin.development.suite import write_suite as write_suite


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted(set(globals()) | set(_LAZY))
