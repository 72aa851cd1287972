"""Judging what was seen in operation: load tests, drift reports, time and sessions in another slot.

Drift reports are not signed; they count by who handed them in.
"""

from __future__ import annotations

from datetime import timedelta

from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.registry.facts import GateFacts, LoadFact
from mlflow_agent_plugin.registry.judges.answers import RANK, met, same_person, unknown, unmet
from mlflow_agent_plugin.registry.report import RequirementResult
from mlflow_agent_plugin.registry.requirements import (
    ANY_SUITE,
    DriftRequirement,
    LoadRequirement,
    SoakRequirement,
)

_LOAD = "Run mlflow-agents load on this version and submit the evidence."
_CHECK = "Run mlflow-agents drift on this version's traffic."


def judge_load(rule: LoadRequirement, facts: GateFacts) -> RequirementResult:
    """Judge what a load test measured at a concurrency."""
    chosen = [item for item in facts.loads if rule.profile in {ANY_SUITE, item.profile}]
    if not chosen:
        what = "" if rule.profile == ANY_SUITE else f" of profile {rule.profile}"
        return unknown("load", rule.title(), f"no evidence of a load test{what}", _LOAD)
    results = [_one_load(rule, item) for item in chosen]
    return max(results, key=lambda item: RANK[item.status])


def _one_load(rule: LoadRequirement, item: LoadFact) -> RequirementResult:
    kind, title = "load", rule.title()
    if item.problem is not None:
        return unknown(kind, title, f"{item.profile}: {item.problem}", _LOAD)
    if rule.profile_digest not in {None, item.profile_digest}:
        return unknown(
            kind, title, f"{item.profile}: another content of the profile", "Run the pinned one."
        )
    high = [level for level in item.levels if level.concurrency >= rule.concurrency]
    if not high:
        most = max((level.concurrency for level in item.levels), default=0)
        return unknown(kind, title, f"{item.profile}: measured up to {most} at once only", _LOAD)
    level = min(high, key=lambda each: each.concurrency)
    if level.requests < rule.minimum_sample:
        return unknown(
            kind,
            title,
            f"{item.profile}: {level.requests} requests, at least {rule.minimum_sample} needed",
            "Let the load test run longer.",
        )
    rate = level.errors / level.requests
    text = (
        f"{item.profile}: p95 {level.p95_seconds:.3g} s, {level.errors} errors in "
        f"{level.requests} requests at {level.concurrency}"
    )
    if rule.use_upper_bound:
        rate = wilson_interval(level.errors, level.requests)[1]
        text += f", error rate at most {rate:.4f} at 0.95"
    if not level.p95_seconds <= rule.p95_seconds:
        return unmet(kind, title, text, "Make the agent faster, or serve it with more workers.")
    if not rate <= rule.error_rate:
        return unmet(kind, title, text, "Correct the errors, or measure more requests.")
    return met(kind, title, text)


def judge_drift(rule: DriftRequirement, facts: GateFacts) -> RequirementResult:
    """Judge the latest drift report about this content."""
    kind, title = "drift", rule.title()
    if not facts.drift_reports:
        return unknown(kind, title, "never checked for drift", _CHECK)
    report = max(facts.drift_reports, key=lambda item: item.at)
    text = f"{report.word} ({report.summary})" if report.summary else report.word
    if report.word == "drift":  # bad news count, whoever brings them
        return unmet(kind, title, text, "Look at the report; retrain, or explain and check again.")
    if not report.verified and not facts.allow_unverified:
        return unknown(kind, title, f"{report.by} did not log in", "Report it by a login.")
    if rule.not_author and same_person(report.by, facts.author):
        return unknown(
            kind, title, f"reported by its author, {report.by}", "Let the monitoring report it."
        )
    if report.word != "no drift":
        return unknown(kind, title, text, "Wait for a window that can tell.")
    hours = (facts.now - report.at).total_seconds() / 3600
    if hours > rule.max_age_hours:
        return unknown(kind, title, f"checked {hours:.1f} hours ago", _CHECK)
    return met(kind, title, text)


def judge_soak(rule: SoakRequirement, facts: GateFacts) -> RequirementResult:
    """Judge how long, and for how many sessions, this content stood in another slot."""
    kind, title = "soak", rule.title()
    hours = facts.stood_hours.get(rule.slot)
    if hours is None:
        return unmet(
            kind, title, f"this content is not in {rule.slot}", f"Promote it to {rule.slot}."
        )
    text = f"{hours:.1f} hours"
    if rule.hours is not None and hours < rule.hours:
        return unmet(kind, title, text, "Wait.")
    if rule.sessions is not None:
        seen = sum(
            report.sessions
            for report in facts.drift_reports
            if report.since is not None
            and report.since >= facts.now - timedelta(hours=hours)
            and (report.verified or facts.allow_unverified)
        )
        text += f", {seen} sessions monitored"
        if seen < rule.sessions:
            return unmet(kind, title, text, f"Wait for traffic, then check it. {_CHECK}")
    return met(kind, title, text)
