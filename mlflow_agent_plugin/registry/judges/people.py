"""Judging what people said: approvals and rejections."""

from __future__ import annotations

from datetime import timedelta

from mlflow_agent_plugin.registry.facts import GateFacts
from mlflow_agent_plugin.registry.judges.answers import met, person, same_person, unknown, unmet
from mlflow_agent_plugin.registry.report import RequirementResult
from mlflow_agent_plugin.registry.requirements import ApprovalsRequirement


def judge_request(facts: GateFacts) -> RequirementResult | None:
    """Judge whether reviewers rejected it; None if they did not."""
    if facts.request_state != "rejected":
        return None
    reason = f": {facts.request_reason}" if facts.request_reason else ""
    return unmet(
        "request",
        "request: not rejected",
        f"a reviewer rejected it{reason}",
        "Answer the reason and open a new request.",
    )


def judge_approvals(rule: ApprovalsRequirement, facts: GateFacts) -> RequirementResult:
    """Judge who approved, and whether these approvals count."""
    title, kind = rule.title(), "approvals"
    oldest = facts.now - timedelta(hours=rule.expires_hours)
    counted: set[str] = set()
    ignored: list[str] = []
    unverified = False
    for item in facts.approvals:
        if not item.verified and not facts.allow_unverified:
            unverified = True
            ignored.append(f"{item.user} did not log in")
        elif item.verified and rule.role not in item.roles:
            ignored.append(f"{item.user} is not a {rule.role}")
        elif rule.not_author and same_person(item.user, facts.author):
            ignored.append(f"{item.user} is the author")
        elif item.at < oldest:
            ignored.append(f"{item.user}'s has expired")
        else:
            counted.add(person(item.user))
    text = f"{len(counted)} of {rule.count}"
    if facts.stale_approvals:
        ignored.append(
            f"{facts.stale_approvals} given before content, evidence, incumbent or rules changed"
        )
    if ignored:
        text += f" (not counted: {'; '.join(ignored)})"
    if len(counted) >= rule.count:
        return met(kind, title, text)
    if unverified:
        return unknown(
            kind,
            title,
            text,
            "Log in to the server, or set allow_unverified in the gate's rules.",
        )
    if facts.request_state != "open":
        hint = "Open a promotion request."
    else:
        hint = f"Ask a {rule.role} to approve."
    return unmet(kind, title, text, hint)
