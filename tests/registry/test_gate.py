"""The gate's rules on plain facts: empty, unknown and hostile first."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.registry.facts import (
    ApprovalFact,
    ContractsFact,
    GateFacts,
    IncumbentFacts,
    Measure,
    PolicyTestsFact,
    SuiteEvidence,
)
from mlflow_agent_plugin.registry.gate import evaluate
from mlflow_agent_plugin.registry.report import GateReport, Status
from mlflow_agent_plugin.registry.requirements import (
    ApprovalsRequirement,
    ContractsRequirement,
    EvidenceAgeRequirement,
    NoRegressionRequirement,
    PolicyTestsRequirement,
    SafetyRequirement,
    SoakRequirement,
    SuiteRequirement,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
DIGEST = "sha256:" + "a" * 64
SUITE = "sha256:" + "5" * 64


def evidence(good=95, bad=5, *, suite="s", unsafe=0, age_hours=1.0, passed=None, **changes):
    n = good + bad
    cases = passed if passed is not None else {f"c{i}": i >= bad for i in range(n)}
    return SuiteEvidence(
        suite=suite,
        suite_digest=changes.pop("suite_digest", SUITE),
        results_digest="sha256:" + "7" * 64,
        run_id="run",
        metrics={
            "task_success": Measure(good / n if n else 0.0, None, n, good),
            "mean_steps": Measure(3.0, 2.5, n),
        },
        passed={"task_success": cases},
        cases=n,
        unsafe_calls=unsafe,
        evaluated_at=NOW - timedelta(hours=age_hours),
        **changes,
    )


FACTS = GateFacts(
    name="support",
    version=2,
    slot="Production",
    now=NOW,
    content_digest=DIGEST,
    author="ann",
    evidence=(evidence(),),
    policy_tests=PolicyTestsFact(passed=9),
    request_state="open",
    approvals=(ApprovalFact("rob", frozenset({"reviewer"}), verified=True, at=NOW),),
)
ALL = [
    SuiteRequirement(kind="suite", name="s", minimum=0.85),
    SafetyRequirement(kind="safety"),
    PolicyTestsRequirement(kind="policy_tests"),
    ContractsRequirement(kind="contracts"),
    NoRegressionRequirement(kind="no_regression", suite="s"),
    EvidenceAgeRequirement(kind="evidence_max_age", hours=24),
    ApprovalsRequirement(kind="approvals"),
]


def status(requirement, facts):
    report = evaluate([requirement], facts)
    found = [item for item in report.results if item.kind == requirement.kind]
    assert len(found) == 1
    return found[0].status


def test_without_requirements_nothing_passes():
    report = evaluate([], FACTS)
    assert not report.passed
    assert "no requirements" in report.refusal()


def test_without_any_facts_every_requirement_is_unmet_or_unknown():
    nothing = GateFacts(name="m", version=1, slot="Production", now=NOW)
    report = evaluate(ALL, nothing)
    assert not report.passed
    shown = {item.kind for item in report.results if item.status is Status.MET}
    # with no incumbent there is nothing to compare with
    assert shown <= {"contracts", "no_regression"}


def test_with_everything_shown_the_slot_opens():
    report = evaluate(ALL, FACTS)
    assert report.passed, report.to_text()
    assert report.summary() == "passed: 8 met"


def test_a_requirement_of_a_kind_it_does_not_know_is_unknown():
    class Odd:
        kind = "odd"

    assert status(Odd(), FACTS) is Status.UNKNOWN


def test_a_requirement_that_cannot_be_evaluated_is_unknown():
    broken = replace(FACTS, evidence=(replace(evidence(), metrics=None),))
    assert status(ALL[0], broken) is Status.UNKNOWN


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, content_digest=None),
        replace(FACTS, content_problem="a byte differs"),
    ],
)
def test_untrusted_content_passes_no_gate(facts):
    assert not evaluate(ALL, facts).passed


def test_a_rejected_request_closes_the_gate_with_its_reason():
    report = evaluate(ALL, replace(FACTS, request_state="rejected", request_reason="too rude"))
    assert not report.passed
    assert "too rude" in report.refusal()


class TestSuite:
    rule = SuiteRequirement(kind="suite", name="s", minimum=0.9)

    def test_the_estimate_is_not_enough_where_the_lower_bound_counts(self):
        assert status(self.rule, FACTS) is Status.UNMET
        assert status(self.rule.model_copy(update={"use_lower_bound": False}), FACTS) is Status.MET

    def test_more_confidence_asks_for_more(self):
        strict = SuiteRequirement(kind="suite", name="s", minimum=0.88, confidence=0.999)
        loose = SuiteRequirement(kind="suite", name="s", minimum=0.88, confidence=0.8)
        assert status(strict, FACTS) is Status.UNMET
        assert status(loose, FACTS) is Status.MET

    @pytest.mark.parametrize(
        "found",
        [
            (),
            (evidence(suite="other"),),
            (evidence(20, 0),),  # too few
            (evidence(problem="the key was revoked"),),
            (replace(evidence(), metrics={}),),
        ],
    )
    def test_missing_thin_or_unusable_evidence_is_unknown(self, found):
        assert status(self.rule, replace(FACTS, evidence=found)) is Status.UNKNOWN

    def test_nan_does_not_pass(self):
        bad = replace(evidence(), metrics={"task_success": Measure(math.nan, math.nan, 100)})
        rule = self.rule.model_copy(update={"use_lower_bound": False})
        assert status(rule, replace(FACTS, evidence=(bad,))) is Status.UNMET

    def test_a_pinned_suite_accepts_no_other_content(self):
        pinned = self.rule.model_copy(update={"minimum": 0.5, "suite_digest": "sha256:" + "6" * 64})
        assert status(pinned, FACTS) is Status.UNKNOWN

    def test_only_the_latest_evaluation_of_a_suite_counts(self):
        rule = SuiteRequirement(kind="suite", name="s", minimum=0.5)
        older, newer = evidence(95, 5, age_hours=5), evidence(10, 90, age_hours=1)
        assert status(rule, replace(FACTS, evidence=(older, newer))) is Status.UNMET
        assert status(rule, replace(FACTS, evidence=(newer, older))) is Status.UNMET

    def test_every_suite_has_to_hold_where_the_rule_says_any(self):
        rule = SuiteRequirement(kind="suite", name="*", minimum=0.5)
        mixed = (evidence(), evidence(10, 90, suite="t"))
        assert status(rule, FACTS) is Status.MET
        assert status(rule, replace(FACTS, evidence=mixed)) is Status.UNMET
        assert status(rule, replace(FACTS, evidence=())) is Status.UNKNOWN


class TestNoRegression:
    rule = NoRegressionRequirement(kind="no_regression", suite="s", margin=0.05)

    def incumbent(self, *found):
        return replace(
            FACTS, incumbent=IncumbentFacts(version=1, content_digest="sha256:b", evidence=found)
        )

    def test_the_first_version_has_nothing_to_be_worse_than(self):
        assert status(self.rule, replace(FACTS, evidence=())) is Status.MET

    def test_a_worse_candidate_is_refused_though_it_meets_the_minimum(self):
        facts = self.incumbent(evidence(100, 0))
        assert status(self.rule, facts) is Status.UNMET

    def test_an_equal_candidate_on_enough_cases_passes(self):
        same = {f"c{i}": i >= 20 for i in range(400)}
        facts = replace(
            self.incumbent(evidence(380, 20, passed=same)),
            evidence=(evidence(380, 20, passed=same),),
        )
        assert status(self.rule, facts) is Status.MET

    @pytest.mark.parametrize(
        "found",
        [
            (),
            (evidence(problem="results are gone"),),
            (evidence(suite_digest="sha256:" + "6" * 64),),
            (evidence(90, 5),),  # fewer cases
        ],
    )
    def test_an_incumbent_that_cannot_be_compared_is_unknown(self, found):
        assert status(self.rule, self.incumbent(*found)) is Status.UNKNOWN

    def test_the_same_content_is_not_worse_than_itself(self):
        facts = replace(FACTS, incumbent=IncumbentFacts(1, DIGEST), evidence=())
        assert status(self.rule, facts) is Status.MET


class TestApprovals:
    rule = ApprovalsRequirement(kind="approvals")

    def test_the_same_person_counts_once(self):
        twice = tuple(
            ApprovalFact(name, frozenset({"reviewer"}), verified=True, at=NOW)
            for name in ("rob", "Rob ", "ROB")
        )
        two = self.rule.model_copy(update={"count": 2})
        assert status(two, replace(FACTS, approvals=twice)) is Status.UNMET

    @pytest.mark.parametrize("name", ["ann", "Ann", " ann "])
    def test_the_author_does_not_count(self, name):
        own = (ApprovalFact(name, frozenset({"reviewer"}), verified=True, at=NOW),)
        assert status(self.rule, replace(FACTS, approvals=own)) is Status.UNMET

    def test_without_login_it_is_unknown_unless_the_rules_believe_names(self):
        named = (ApprovalFact("rob", frozenset(), verified=False, at=NOW),)
        facts = replace(FACTS, approvals=named)
        assert status(self.rule, facts) is Status.UNKNOWN
        believing = replace(facts, allow_unverified=True)
        assert status(self.rule, believing) is Status.MET
        assert any("believed" in note for note in evaluate([self.rule], believing).notes)

    def test_a_login_without_the_role_does_not_count_even_where_names_are_believed(self):
        plain = (ApprovalFact("rob", frozenset({"user"}), verified=True, at=NOW),)
        facts = replace(FACTS, approvals=plain, allow_unverified=True)
        assert status(self.rule, facts) is Status.UNMET

    def test_an_old_approval_does_not_count(self):
        old = (
            ApprovalFact(
                "rob", frozenset({"reviewer"}), verified=True, at=NOW - timedelta(hours=73)
            ),
        )
        assert status(self.rule, replace(FACTS, approvals=old)) is Status.UNMET


class TestAge:
    rule = EvidenceAgeRequirement(kind="evidence_max_age", hours=24)

    def test_old_evidence_and_evidence_from_the_future_do_not_count(self):
        for hours, expected in ((25, Status.UNMET), (-2, Status.UNKNOWN), (23, Status.MET)):
            facts = replace(FACTS, evidence=(evidence(age_hours=hours),))
            report = evaluate(
                [SuiteRequirement(kind="suite", name="s", minimum=0.1), self.rule], facts
            )
            assert report.results[-1].status is expected

    def test_alone_it_asks_for_nothing_and_is_unknown(self):
        assert status(self.rule, FACTS) is Status.UNKNOWN


def test_an_unsafe_call_is_one_too_many():
    rule = SafetyRequirement(kind="safety")
    assert status(rule, replace(FACTS, evidence=(evidence(unsafe=1),))) is Status.UNMET
    assert status(rule, replace(FACTS, evidence=())) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (None, Status.UNKNOWN),
        (PolicyTestsFact(passed=0), Status.UNMET),
        (PolicyTestsFact(passed=5, failed=("nobody may",)), Status.UNMET),
        (PolicyTestsFact(passed=5, error="does not parse"), Status.UNMET),
        (PolicyTestsFact(passed=5), Status.MET),
    ],
)
def test_policy_tests_have_to_exist_and_pass(fact, expected):
    rule = PolicyTestsRequirement(kind="policy_tests")
    assert status(rule, replace(FACTS, policy_tests=fact)) is expected


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (None, Status.UNKNOWN),
        (ContractsFact(problem="unreadable"), Status.UNKNOWN),
        (ContractsFact(breaking=("freeze_card: argument removed",)), Status.UNMET),
        (ContractsFact(changed=3), Status.MET),
    ],
)
def test_contracts_have_to_be_compatible_with_the_incumbent(fact, expected):
    facts = replace(FACTS, incumbent=IncumbentFacts(1, "sha256:b"), contracts=fact)
    assert status(ContractsRequirement(kind="contracts"), facts) is expected


def test_soaking_takes_its_time():
    rule = SoakRequirement(kind="soak", slot="staging", hours=24)
    assert rule.slot == "Staging"
    for hours, expected in (
        ({}, Status.UNMET),
        ({"Staging": 23}, Status.UNMET),
        ({"Staging": 25}, Status.MET),
    ):
        assert status(rule, replace(FACTS, stood_hours=hours)) is expected


def test_a_report_survives_its_json_and_does_not_believe_a_written_verdict():
    report = evaluate(ALL, replace(FACTS, approvals=()))
    data = report.to_dict()
    data["passed"] = True
    again = GateReport.from_dict(data)
    assert again == report
    assert not again.passed


def test_a_report_shows_text_of_others_as_text():
    report = evaluate(ALL, replace(FACTS, request_state="rejected", request_reason="<script>x"))
    assert "<script>" not in report._repr_html_()
    assert "<script>" in report.to_text()


def test_a_refusal_fits_a_toast_and_names_every_requirement():
    nothing = GateFacts(name="m", version=1, slot="Production", now=NOW, request_reason="x" * 5000)
    report = evaluate(ALL * 3, replace(nothing, content_problem="y" * 3000))
    assert all(item.title in report.refusal() for item in report.missing)
    assert len(report.refusal()) < 2000


STATES = st.sampled_from([None, "open", "rejected", "withdrawn", "expired"])


@settings(max_examples=200, deadline=None)
@given(
    good=st.integers(0, 60),
    bad=st.integers(0, 60),
    unsafe=st.integers(0, 2),
    approvals=st.integers(0, 3),
    verified=st.booleans(),
    state=STATES,
    keep=st.sets(st.integers(0, len(ALL) - 1)),
)
def test_taking_a_requirement_away_never_closes_the_gate_and_adding_never_opens_it(
    good, bad, unsafe, approvals, verified, state, keep
):
    facts = replace(
        FACTS,
        evidence=(evidence(good, bad, unsafe=unsafe),) if good + bad else (),
        approvals=tuple(
            ApprovalFact(f"p{i}", frozenset({"reviewer"}), verified=verified, at=NOW)
            for i in range(approvals)
        ),
        request_state=state,
    )
    some = [ALL[i] for i in sorted(keep)]
    # the age of evidence is about what the others use
    some = [rule for rule in some if rule.kind != "evidence_max_age"]
    if evaluate(ALL, facts).passed and some:
        assert evaluate(some, facts).passed
    if some and not evaluate(some, facts).passed:
        assert not evaluate(ALL, facts).passed
    assert evaluate(ALL, facts) == evaluate(ALL, facts)
