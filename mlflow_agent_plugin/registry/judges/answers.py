"""What all judges share: the three answers, and choosing the evidence a rule is about."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_agent_plugin.registry.facts import GateFacts, SuiteEvidence
from mlflow_agent_plugin.registry.report import RequirementResult, Status
from mlflow_agent_plugin.registry.requirements import ANY_SUITE

EVALUATE = "Run agents.evaluate on this version and submit the evidence."

RANK = {Status.MET: 0, Status.UNKNOWN: 1, Status.UNMET: 2}


def met(kind: str, title: str, why: str) -> RequirementResult:
    """Return the answer that the requirement holds."""
    return RequirementResult(kind, title, Status.MET, why)


def unmet(kind: str, title: str, why: str, hint: str) -> RequirementResult:
    """Return the answer that the requirement was shown not to hold."""
    return RequirementResult(kind, title, Status.UNMET, why, hint)


def unknown(kind: str, title: str, why: str, hint: str) -> RequirementResult:
    """Return the answer where something is missing."""
    return RequirementResult(kind, title, Status.UNKNOWN, why, hint)


def evidence_on(name: str, facts: GateFacts) -> list[SuiteEvidence]:
    """Return the evidence a rule about suite `name` draws on."""
    if name == ANY_SUITE:
        return sorted(facts.evidence, key=lambda item: item.suite)
    found = latest(name, facts.evidence)
    return [] if found is None else [found]


def latest(suite: str, evidence: Sequence[SuiteEvidence]) -> SuiteEvidence | None:
    """Return the latest evidence on a suite."""
    found = [item for item in evidence if item.suite == suite]
    return max(found, key=lambda item: item.evaluated_at) if found else None


def nothing_on(suite: str) -> str:
    """Say that there is no evidence."""
    return "no evidence" if suite == ANY_SUITE else f"no evidence on suite {suite}"


def person(user: str) -> str:
    """Return what two spellings of one person have in common."""
    return user.strip().casefold()


def same_person(user: str, author: str | None) -> bool:
    """Say whether `user` is the author."""
    return author is not None and person(user) == person(author)


def short(digest: str) -> str:
    """Return a digest as reports show it."""
    return digest[: len("sha256:") + 12]
