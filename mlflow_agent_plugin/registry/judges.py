"""How each kind of requirement is judged on the facts.

Every function is pure and answers with what was found and what to do. What is missing is unknown;
only what was shown to be wrong is unmet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from mlflow_agent_plugin.entities.statistics import non_inferiority, wilson_interval
from mlflow_agent_plugin.registry.facts import GateFacts, SuiteEvidence
from mlflow_agent_plugin.registry.report import RequirementResult, Status
from mlflow_agent_plugin.registry.requirements import (
    ANY_SUITE,
    ApprovalsRequirement,
    ContractsRequirement,
    EvidenceAgeRequirement,
    NoRegressionRequirement,
    PolicyTestsRequirement,
    SafetyRequirement,
    SoakRequirement,
    SuiteRequirement,
)

_EVALUATE = "Run agents.evaluate on this version and submit the evidence."


def judge(rule: Any, facts: GateFacts, all_rules: Sequence[Any]) -> RequirementResult:
    """Judge one requirement; whatever goes wrong on the way, it is unknown.

    Args:
        rule: The requirement.
        facts: What is known.
        all_rules: All requirements of the slot, `rule` among them.
    """
    kind = str(getattr(rule, "kind", type(rule).__name__))
    if isinstance(rule, EvidenceAgeRequirement):
        return _evidence_age(rule, all_rules, facts)
    judge_one = _JUDGES.get(type(rule))
    if judge_one is None:
        return unknown(kind, kind, "this version of the gate does not know it", "Update it.")
    try:
        return judge_one(rule, facts)
    except Exception as error:
        why = f"cannot be evaluated: {type(error).__name__}: {error}"
        return unknown(kind, rule.title(), why, "Report this.")


def judge_content(facts: GateFacts) -> RequirementResult:
    """Judge whether the content is what was registered."""
    title = "content: as registered"
    if facts.content_problem is not None:
        return _unmet("content", title, facts.content_problem, "Register the agent again.")
    if facts.content_digest is None:
        return unknown("content", title, "the content was never read", "Register it as an agent.")
    return _met("content", title, _short(facts.content_digest))


def judge_request(facts: GateFacts) -> RequirementResult | None:
    """Judge whether reviewers rejected it; None if they did not."""
    if facts.request_state != "rejected":
        return None
    reason = f": {facts.request_reason}" if facts.request_reason else ""
    return _unmet(
        "request",
        "request: not rejected",
        f"a reviewer rejected it{reason}",
        "Answer the reason and open a new request.",
    )


def _suite(rule: SuiteRequirement, facts: GateFacts) -> RequirementResult:
    title = rule.title()
    chosen = _chosen(rule.name, facts)
    if not chosen:
        return unknown("suite", title, _nothing_on(rule.name), _EVALUATE)
    worst: RequirementResult | None = None
    for evidence in chosen:
        result = _one_suite(rule, evidence, title)
        if worst is None or _RANK[result.status] > _RANK[worst.status]:
            worst = result
    assert worst is not None
    if worst.status is Status.MET and len(chosen) > 1:
        return _met("suite", title, f"holds on {len(chosen)} suites")
    return worst


def _one_suite(rule: SuiteRequirement, evidence: SuiteEvidence, title: str) -> RequirementResult:
    where = f"{evidence.suite}: " if rule.name == ANY_SUITE else ""
    if evidence.problem is not None:
        return unknown("suite", title, f"{where}{evidence.problem}", _EVALUATE)
    if rule.suite_digest not in {None, evidence.suite_digest}:
        return unknown(
            "suite",
            title,
            f"{where}evaluated on {_short(evidence.suite_digest)}, pinned is "
            f"{_short(str(rule.suite_digest))}",
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
        return _unmet("suite", title, text, "Improve the agent, then evaluate again.")
    return _met("suite", title, text)


def _no_regression(rule: NoRegressionRequirement, facts: GateFacts) -> RequirementResult:
    title, kind = rule.title(), "no_regression"
    if facts.incumbent is None:
        return _met(kind, title, "the slot is empty: there is no incumbent")
    if facts.content_digest is not None and (
        facts.incumbent.content_digest == facts.content_digest
    ):
        return _met(kind, title, "same content as the incumbent")
    if facts.incumbent.content_digest is None:
        why = f"the incumbent (version {facts.incumbent.version}) is no agent"
        return unknown(kind, title, why, "Let a reviewer retire the slot first.")
    ours = _latest(rule.suite, facts.evidence)
    theirs = _latest(rule.suite, facts.incumbent.evidence)
    if ours is None or ours.problem is not None:
        why = _nothing_on(rule.suite) if ours is None else str(ours.problem)
        return unknown(kind, title, why, _EVALUATE)
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
        return unknown(kind, title, f"the results give no {rule.metric} per case", _EVALUATE)
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
        return _unmet(kind, title, text, "Improve the agent, or evaluate both on more cases.")
    return _met(kind, title, text)


def _safety(rule: SafetyRequirement, facts: GateFacts) -> RequirementResult:
    title, kind = rule.title(), "safety"
    chosen = _chosen(rule.suite, facts)
    if not chosen:
        return unknown(kind, title, _nothing_on(rule.suite), _EVALUATE)
    broken = [item for item in chosen if item.problem is not None]
    if broken:
        return unknown(kind, title, f"{broken[0].suite}: {broken[0].problem}", _EVALUATE)
    cases = sum(item.cases for item in chosen)
    unsafe = sum(item.unsafe_calls for item in chosen)
    if unsafe:
        return _unmet(kind, title, f"{unsafe} unsafe calls", "Tighten the policies.")
    if cases < rule.minimum_sample:
        return unknown(
            kind, title, f"{cases} cases, at least {rule.minimum_sample} needed", _EVALUATE
        )
    return _met(kind, title, f"0 unsafe calls in {cases} cases")


def _contracts(rule: ContractsRequirement, facts: GateFacts) -> RequirementResult:
    title, kind = rule.title(), "contracts"
    if facts.incumbent is None:
        return _met(kind, title, "the slot is empty: there is no incumbent")
    if facts.incumbent.content_digest is None:
        return _met(kind, title, "the incumbent is no agent: it has no contracts")
    found = facts.contracts
    if found is None or found.problem is not None:
        why = "not compared" if found is None else str(found.problem)
        return unknown(kind, title, why, "Register both versions with this registry.")
    if found.breaking:
        more = f" and {len(found.breaking) - 1} more" if len(found.breaking) > 1 else ""
        return _unmet(kind, title, found.breaking[0] + more, "Raise the contract's major version.")
    return _met(kind, title, f"{found.changed} changed, none breaking")


def _policy_tests(rule: PolicyTestsRequirement, facts: GateFacts) -> RequirementResult:
    title, kind = rule.title(), "policy_tests"
    found = facts.policy_tests
    if found is None:
        return unknown(kind, title, "never run", "Register the version with this registry.")
    if found.error is not None:
        return _unmet(kind, title, found.error, "Correct the policies.")
    if found.failed:
        more = f" and {len(found.failed) - 1} more" if len(found.failed) > 1 else ""
        return _unmet(kind, title, f"{found.failed[0]} failed{more}", "Correct the policies.")
    if found.passed < rule.minimum_tests:
        return _unmet(
            kind,
            title,
            f"{found.passed} tests, at least {rule.minimum_tests} needed",
            "Add cases to policies/tests.yaml.",
        )
    return _met(kind, title, f"{found.passed} passed")


def _approvals(rule: ApprovalsRequirement, facts: GateFacts) -> RequirementResult:
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
        elif rule.not_author and _same_person(item.user, facts.author):
            ignored.append(f"{item.user} is the author")
        elif item.at < oldest:
            ignored.append(f"{item.user}'s has expired")
        else:
            counted.add(_person(item.user))
    text = f"{len(counted)} of {rule.count}"
    if facts.stale_approvals:
        ignored.append(
            f"{facts.stale_approvals} given before content, evidence, incumbent or rules changed"
        )
    if ignored:
        text += f" (not counted: {'; '.join(ignored)})"
    if len(counted) >= rule.count:
        return _met(kind, title, text)
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
    return _unmet(kind, title, text, hint)


def _evidence_age(
    rule: EvidenceAgeRequirement, requirements: Sequence[Any], facts: GateFacts
) -> RequirementResult:
    title, kind = rule.title(), "evidence_max_age"
    used: dict[str, SuiteEvidence] = {}
    for other in requirements:
        name = getattr(other, "name", None) or getattr(other, "suite", None)
        if isinstance(name, str):
            used.update({item.suite: item for item in _chosen(name, facts)})
    if not used:
        return unknown(kind, title, "there is no evidence", _EVALUATE)
    oldest = min(used.values(), key=lambda item: item.evaluated_at)
    hours = (facts.now - oldest.evaluated_at).total_seconds() / 3600
    text = f"{oldest.suite}: {hours:.1f} hours old"
    if hours < -0.1:
        return unknown(kind, title, f"{oldest.suite}: dated in the future", "Check the clocks.")
    if hours > rule.hours:
        return _unmet(kind, title, text, "Evaluate again.")
    return _met(kind, title, text)


def _soak(rule: SoakRequirement, facts: GateFacts) -> RequirementResult:
    title = rule.title()
    hours = facts.stood_hours.get(rule.slot)
    if hours is None:
        return _unmet(
            "soak", title, f"this content is not in {rule.slot}", f"Promote it to {rule.slot}."
        )
    text = f"{hours:.1f} hours"
    if hours < rule.hours:
        return _unmet("soak", title, text, "Wait.")
    return _met("soak", title, text)


_RANK = {Status.MET: 0, Status.UNKNOWN: 1, Status.UNMET: 2}


def _chosen(name: str, facts: GateFacts) -> list[SuiteEvidence]:
    if name == ANY_SUITE:
        return sorted(facts.evidence, key=lambda item: item.suite)
    found = _latest(name, facts.evidence)
    return [] if found is None else [found]


def _latest(suite: str, evidence: Sequence[SuiteEvidence]) -> SuiteEvidence | None:
    found = [item for item in evidence if item.suite == suite]
    return max(found, key=lambda item: item.evaluated_at) if found else None


def _nothing_on(suite: str) -> str:
    return "no evidence" if suite == ANY_SUITE else f"no evidence on suite {suite}"


def _person(user: str) -> str:
    return user.strip().casefold()


def _same_person(user: str, author: str | None) -> bool:
    return author is not None and _person(user) == _person(author)


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


def _met(kind: str, title: str, why: str) -> RequirementResult:
    return RequirementResult(kind, title, Status.MET, why)


def _unmet(kind: str, title: str, why: str, hint: str) -> RequirementResult:
    return RequirementResult(kind, title, Status.UNMET, why, hint)


def unknown(kind: str, title: str, why: str, hint: str) -> RequirementResult:
    """Return the answer where something is missing."""
    return RequirementResult(kind, title, Status.UNKNOWN, why, hint)


_JUDGES: Mapping[type, Callable[[Any, GateFacts], RequirementResult]] = MappingProxyType(
    {
        SuiteRequirement: _suite,
        NoRegressionRequirement: _no_regression,
        SafetyRequirement: _safety,
        ContractsRequirement: _contracts,
        PolicyTestsRequirement: _policy_tests,
        ApprovalsRequirement: _approvals,
        SoakRequirement: _soak,
    }
)
