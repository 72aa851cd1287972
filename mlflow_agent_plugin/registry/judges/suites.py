"""Judging what was measured on suites."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mlflow_agent_plugin.entities.statistics import non_inferiority, wilson_interval
from mlflow_agent_plugin.registry.facts import GateFacts, SuiteEvidence
from mlflow_agent_plugin.registry.judges.answers import (
    EVALUATE,
    RANK,
    evidence_on,
    latest,
    met,
    nothing_on,
    short,
    unknown,
    unmet,
)
from mlflow_agent_plugin.registry.report import RequirementResult, Status
from mlflow_agent_plugin.registry.requirements import (
    ANY_SUITE,
    EvidenceAgeRequirement,
    LoadRequirement,
    NoRegressionRequirement,
    SafetyRequirement,
    SuiteRequirement,
)


def judge_suite(rule: SuiteRequirement, facts: GateFacts) -> RequirementResult:
    """Judge a metric of the latest evidence on a suite, or on every suite."""
    title = rule.title()
    chosen = evidence_on(rule.name, facts)
    if not chosen:
        return unknown("suite", title, nothing_on(rule.name), EVALUATE)
    worst: RequirementResult | None = None
    for evidence in chosen:
        result = _one_suite(rule, evidence, title)
        if worst is None or RANK[result.status] > RANK[worst.status]:
            worst = result
    assert worst is not None
    if worst.status is Status.MET and len(chosen) > 1:
        return met("suite", title, f"holds on {len(chosen)} suites")
    return worst


def _one_suite(rule: SuiteRequirement, evidence: SuiteEvidence, title: str) -> RequirementResult:
    where = f"{evidence.suite}: " if rule.name == ANY_SUITE else ""
    if evidence.problem is not None:
        return unknown("suite", title, f"{where}{evidence.problem}", EVALUATE)
    if rule.suite_digest not in {None, evidence.suite_digest}:
        return unknown(
            "suite",
            title,
            f"{where}evaluated on {short(evidence.suite_digest)}, pinned is "
            f"{short(str(rule.suite_digest))}",
            "Evaluate on the pinned suite.",
        )
    measure = evidence.metrics.get(rule.metric)
    if measure is None:
        return unknown(
            "suite", title, f"{where}the results give no {rule.metric}", "Check the metric's name."
        )
    if measure.n < rule.minimum_sample:
        return unknown(
            "suite",
            title,
            f"{where}{measure.n} cases, at least {rule.minimum_sample} needed",
            "Evaluate on more cases.",
        )
    text = f"{where}{rule.metric} {measure.value:.4g} on {measure.n} cases"
    found = measure.value
    if rule.use_lower_bound:
        if measure.successes is not None:
            found = wilson_interval(measure.successes, measure.n, confidence=rule.confidence)[0]
        elif measure.low is not None and rule.confidence == 0.95:
            found = measure.low
        else:
            return unknown("suite", title, f"{text}, without an interval", "Use the estimate.")
        text += f", lower bound {found:.4g} at {rule.confidence:g}"
    if not found >= rule.minimum:  # also false for NaN
        return unmet("suite", title, text, "Improve the agent, then evaluate again.")
    return met("suite", title, text)


def judge_no_regression(rule: NoRegressionRequirement, facts: GateFacts) -> RequirementResult:
    """Judge the candidate against the incumbent, case by case."""
    title, kind = rule.title(), "no_regression"
    if facts.incumbent is None:
        return met(kind, title, "the slot is empty: there is no incumbent")
    if facts.content_digest is not None and (
        facts.incumbent.content_digest == facts.content_digest
    ):
        return met(kind, title, "same content as the incumbent")
    if facts.incumbent.content_digest is None:
        why = f"the incumbent (version {facts.incumbent.version}) is no agent"
        return unknown(kind, title, why, "Let a reviewer retire the slot first.")
    ours = latest(rule.suite, facts.evidence)
    theirs = latest(rule.suite, facts.incumbent.evidence)
    if ours is None or ours.problem is not None:
        why = nothing_on(rule.suite) if ours is None else str(ours.problem)
        return unknown(kind, title, why, EVALUATE)
    if theirs is None or theirs.problem is not None:
        why = "no evidence" if theirs is None else str(theirs.problem)
        return unknown(
            kind,
            title,
            f"incumbent (version {facts.incumbent.version}): {why}",
            f"Evaluate version {facts.incumbent.version} on the same suite.",
        )
    if ours.suite_digest != theirs.suite_digest:
        return unknown(
            kind,
            title,
            f"the incumbent (version {facts.incumbent.version}) was evaluated on another content "
            "of the suite",
            "Evaluate both on the same suite.",
        )
    mine, its = ours.passed.get(rule.metric), theirs.passed.get(rule.metric)
    if mine is None or its is None:
        return unknown(kind, title, f"the results give no {rule.metric} per case", EVALUATE)
    shared = mine.keys() & its.keys()
    if len(shared) < max(len(mine), len(its)):
        return unknown(
            kind,
            title,
            f"only {len(shared)} of {max(len(mine), len(its))} cases were run on both",
            "Evaluate both on the whole suite.",
        )
    if len(shared) < rule.minimum_sample:
        return unknown(
            kind,
            title,
            f"{len(shared)} cases, at least {rule.minimum_sample} needed",
            "Evaluate on more cases.",
        )
    gained = sum(mine[case] and not its[case] for case in shared)
    lost = sum(its[case] and not mine[case] for case in shared)
    verdict = non_inferiority(
        gained, lost, len(shared), margin=rule.margin, confidence=rule.confidence
    )
    text = (
        f"{verdict.difference.difference:+.4f} on {len(shared)} cases ({gained} gained, {lost} "
        f"lost), lower bound {verdict.difference.low:+.4f} at {rule.confidence:g}"
    )
    if not verdict.holds:
        return unmet(kind, title, text, "Improve the agent, or evaluate both on more cases.")
    return met(kind, title, text)


def judge_safety(rule: SafetyRequirement, facts: GateFacts) -> RequirementResult:
    """Judge whether any case made an unsafe call."""
    title, kind = rule.title(), "safety"
    chosen = evidence_on(rule.suite, facts)
    if not chosen:
        return unknown(kind, title, nothing_on(rule.suite), EVALUATE)
    broken = [item for item in chosen if item.problem is not None]
    if broken:
        return unknown(kind, title, f"{broken[0].suite}: {broken[0].problem}", EVALUATE)
    cases = sum(item.cases for item in chosen)
    unsafe = sum(item.unsafe_calls for item in chosen)
    if unsafe:
        return unmet(kind, title, f"{unsafe} unsafe calls", "Tighten the policies.")
    if cases < rule.minimum_sample:
        return unknown(
            kind, title, f"{cases} cases, at least {rule.minimum_sample} needed", EVALUATE
        )
    return met(kind, title, f"0 unsafe calls in {cases} cases")


def judge_evidence_age(
    rule: EvidenceAgeRequirement, requirements: Sequence[Any], facts: GateFacts
) -> RequirementResult:
    """Judge how old the evidence is that the other requirements draw on."""
    title, kind = rule.title(), "evidence_max_age"
    used: dict[str, datetime] = {}
    for other in requirements:
        if isinstance(other, LoadRequirement):
            used |= {
                f"load test {item.profile}": item.measured_at
                for item in facts.loads
                if other.profile in {ANY_SUITE, item.profile}
            }
        name = getattr(other, "name", None) or getattr(other, "suite", None)
        if isinstance(name, str):
            used |= {item.suite: item.evaluated_at for item in evidence_on(name, facts)}
    if not used:
        return unknown(kind, title, "there is no evidence", EVALUATE)
    oldest = min(used, key=lambda what: used[what])
    hours = (facts.now - used[oldest]).total_seconds() / 3600
    newest = max(used, key=lambda what: used[what])
    if (facts.now - used[newest]).total_seconds() < -360:
        return unknown(kind, title, f"{newest}: dated in the future", "Check the clocks.")
    text = f"{oldest}: {hours:.1f} hours old"
    if hours > rule.hours:
        return unmet(kind, title, text, "Evaluate again.")
    return met(kind, title, text)
