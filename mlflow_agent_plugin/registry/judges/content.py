"""Judging what the registry read and ran itself: content, tool contracts, policy tests."""

from __future__ import annotations

from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.judges.answers import met, short, unknown, unmet
from mlflow_agent_plugin.registry.report import RequirementResult
from mlflow_agent_plugin.registry.requirements import (
    ContractsRequirement,
    PolicyTestsRequirement,
)


def judge_content(facts: GateFacts) -> RequirementResult:
    """Judge whether the content is what was registered."""
    title = "content: as registered"
    if facts.content_problem is not None:
        return unmet("content", title, facts.content_problem, "Register the agent again.")
    if facts.content_digest is None:
        return unknown("content", title, "the content was never read", "Register it as an agent.")
    return met("content", title, short(facts.content_digest))


def judge_contracts(rule: ContractsRequirement, facts: GateFacts) -> RequirementResult:
    """Judge whether tool contracts break what the incumbent promised."""
    title, kind = rule.title(), "contracts"
    if facts.incumbent is None:
        return met(kind, title, "the slot is empty: there is no incumbent")
    if facts.incumbent.content_digest is None:
        return met(kind, title, "the incumbent is no agent: it has no contracts")
    found = facts.contracts
    if found is None or found.problem is not None:
        why = "not compared" if found is None else str(found.problem)
        return unknown(kind, title, why, "Register both versions with this registry.")
    if found.breaking:
        more = f" and {len(found.breaking) - 1} more" if len(found.breaking) > 1 else ""
        return unmet(kind, title, found.breaking[0] + more, "Raise the contract's major version.")
    return met(kind, title, f"{found.changed} changed, none breaking")


def judge_policy_tests(rule: PolicyTestsRequirement, facts: GateFacts) -> RequirementResult:
    """Judge the outcome of the bundle's policy tests."""
    title, kind = rule.title(), "policy_tests"
    found = facts.policy_tests
    if found is None:
        return unknown(kind, title, "never run", "Register the version with this registry.")
    if found.error is not None:
        return unmet(kind, title, found.error, "Correct the policies.")
    if found.failed:
        more = f" and {len(found.failed) - 1} more" if len(found.failed) > 1 else ""
        return unmet(kind, title, f"{found.failed[0]} failed{more}", "Correct the policies.")
    if found.passed < rule.minimum_tests:
        return unmet(
            kind,
            title,
            f"{found.passed} tests, at least {rule.minimum_tests} needed",
            "Add cases to policies/tests.yaml.",
        )
    return met(kind, title, f"{found.passed} passed")
