"""How each kind of requirement is judged on the facts.

Every judge is pure and answers with what was found and what to do. What is missing is unknown; only
what was shown to be wrong is unmet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.judges.answers import unknown
from mlflow_agent_plugin.registry.judges.content import (
    judge_content,
    judge_contracts,
    judge_policy_tests,
)
from mlflow_agent_plugin.registry.judges.operation import judge_drift, judge_load, judge_soak
from mlflow_agent_plugin.registry.judges.people import judge_approvals, judge_request
from mlflow_agent_plugin.registry.judges.suites import (
    judge_evidence_age,
    judge_no_regression,
    judge_safety,
    judge_suite,
)
from mlflow_agent_plugin.registry.report import RequirementResult
from mlflow_agent_plugin.registry.requirements import (
    ApprovalsRequirement,
    ContractsRequirement,
    DriftRequirement,
    EvidenceAgeRequirement,
    LoadRequirement,
    NoRegressionRequirement,
    PolicyTestsRequirement,
    SafetyRequirement,
    SoakRequirement,
    SuiteRequirement,
)

__all__ = ["judge", "judge_content", "judge_request", "unknown"]

_JUDGES: Mapping[type, Callable[[Any, GateFacts], RequirementResult]] = MappingProxyType(
    {
        SuiteRequirement: judge_suite,
        NoRegressionRequirement: judge_no_regression,
        SafetyRequirement: judge_safety,
        ContractsRequirement: judge_contracts,
        PolicyTestsRequirement: judge_policy_tests,
        ApprovalsRequirement: judge_approvals,
        LoadRequirement: judge_load,
        DriftRequirement: judge_drift,
        SoakRequirement: judge_soak,
    }
)


def judge(rule: Any, facts: GateFacts, all_rules: Sequence[Any]) -> RequirementResult:
    """Judge one requirement; whatever goes wrong on the way, it is unknown.

    Args:
        rule: The requirement.
        facts: What is known.
        all_rules: All requirements of the slot, `rule` among them.
    """
    kind = str(getattr(rule, "kind", type(rule).__name__))
    judge_one = _JUDGES.get(type(rule))
    try:
        if isinstance(rule, EvidenceAgeRequirement):
            return judge_evidence_age(rule, all_rules, facts)
        if judge_one is None:
            return unknown(kind, kind, "this version of the gate does not know it", "Update it.")
        return judge_one(rule, facts)
    except Exception as error:
        why = f"cannot be evaluated: {type(error).__name__}: {error}"
        return unknown(kind, rule.title(), why, "Report this.")
