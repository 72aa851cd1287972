"""Decide whether an agent may make one tool call, and say why.

    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, check_policies

    bundle = load_bundle("agents/support")
    check_policies(bundle)                      # raises PolicyError: file, line, policy, what to do
    decision = CedarPolicyEngine.from_bundle(bundle).decide(request)

Names load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "CedarPolicyEngine": "engine",
    "PolicyEngine": "engine",
    "PolicyChange": "explain",
    "PolicyExplanation": "explain",
    "PolicyCheck": "check",
    "check_policies": "check",
    "PolicyTestResult": "policy_tests",
    "run_policy_tests": "policy_tests",
    "cedar_schema": "schema",
    "PolicySources": "sources",
    "scaffold_policies": "scaffold",
    "write_scaffold": "scaffold.writing",
}

__all__ = [
    "CedarPolicyEngine",
    "PolicyChange",
    "PolicyCheck",
    "PolicyEngine",
    "PolicyExplanation",
    "PolicySources",
    "PolicyTestResult",
    "cedar_schema",
    "check_policies",
    "run_policy_tests",
    "scaffold_policies",
    "write_scaffold",
]

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.policy.check import PolicyCheck, check_policies
    from mlflow_agent_plugin.trust.policy.engine import CedarPolicyEngine, PolicyEngine
    from mlflow_agent_plugin.trust.policy.explain import PolicyChange, PolicyExplanation
    from mlflow_agent_plugin.trust.policy.policy_tests import PolicyTestResult, run_policy_tests
    from mlflow_agent_plugin.trust.policy.scaffold import scaffold_policies
    from mlflow_agent_plugin.trust.policy.scaffold.writing import write_scaffold
    from mlflow_agent_plugin.trust.policy.schema import cedar_schema
    from mlflow_agent_plugin.trust.policy.sources import PolicySources


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion in notebooks."""
    return sorted(set(globals()) | set(_LAZY))
