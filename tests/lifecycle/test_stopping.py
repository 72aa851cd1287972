"""When a rollout has to stop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.lifecycle.stopping import (
    RolloutVerdict,
    RolloutWatch,
    SequentialTest,
    StopRules,
)


def play(seed, *, sessions, candidate, incumbent, errors=(0.02, 0.02), share=0.5, rules=None):
    """Return the decision of one rollout and after how many sessions of the candidate it came."""
    chance = random.Random(seed)
    watch = RolloutWatch(rules)
    for _ in range(sessions):
        ours = chance.random() < share
        decision = watch.session(
            candidate=ours,
            success=chance.random() < (candidate if ours else incumbent),
            error=chance.random() < errors[0 if ours else 1],
        )
        if decision.verdict is not RolloutVerdict.GO_ON:
            break
    return decision, watch.sessions["candidate"]


def test_a_safety_incident_stops_at_once_and_for_good():
    watch = RolloutWatch()
    assert watch.incident("leak").verdict is RolloutVerdict.STOP
    later = watch.session(candidate=True, success=True, error=False)
    assert later.verdict is RolloutVerdict.STOP
    assert later.reasons == ("safety incident: leak",)


def test_nothing_is_decided_about_a_candidate_nobody_used():
    watch = RolloutWatch()
    for _ in range(5000):
        decision = watch.session(candidate=False, success=True, error=False)
    assert decision.verdict is RolloutVerdict.GO_ON


def test_an_equally_good_candidate_is_stopped_at_most_as_often_as_promised():
    """200 rollouts of 2,000 sessions, looked at after each; alpha is 5 %."""
    rules = StopRules(alpha=0.05)
    stopped = sum(
        play(seed, sessions=2000, candidate=0.85, incumbent=0.85, rules=rules)[0].verdict
        is RolloutVerdict.STOP
        for seed in range(200)
    )
    assert stopped <= 10


def test_a_candidate_exactly_at_the_margin_is_stopped_at_most_as_often_as_promised():
    stopped = sum(
        play(seed, sessions=2000, candidate=0.80, incumbent=0.85)[0].verdict is RolloutVerdict.STOP
        for seed in range(200)
    )
    assert stopped <= 10


@pytest.mark.parametrize(
    ("candidate", "errors"), [(0.55, (0.02, 0.02)), (0.85, (0.25, 0.02))], ids=["success", "errors"]
)
def test_a_much_worse_candidate_is_stopped_soon(candidate, errors):
    found = [
        play(seed, sessions=3000, candidate=candidate, incumbent=0.85, errors=errors)
        for seed in range(40)
    ]
    assert all(decision.verdict is RolloutVerdict.STOP for decision, _ in found)
    assert sorted(sessions for _, sessions in found)[20] < 250


def test_a_good_candidate_becomes_ready_also_with_a_small_share_of_the_traffic():
    found = [
        play(seed, sessions=60_000, candidate=0.90, incumbent=0.85, share=0.1)[0].verdict
        for seed in range(10)
    ]
    assert found.count(RolloutVerdict.READY) >= 9


def test_ready_takes_the_minimum_of_sessions_however_clear_it_is():
    rules = StopRules(min_sessions=5000)
    decision, _ = play(1, sessions=6000, candidate=1.0, incumbent=0.2, rules=rules)
    assert decision.verdict is RolloutVerdict.GO_ON


@given(st.lists(st.floats(-1.5, 1.5), max_size=200))
def test_evidence_is_a_number_whatever_comes(values):
    test = SequentialTest(1.5)
    for value in values:
        test.observe(value)
    assert test.evidence == test.evidence
    assert test.count == len(values)


@pytest.mark.parametrize("value", [2.0, float("nan"), float("inf")])
def test_a_number_outside_its_bound_is_refused(value):
    with pytest.raises(ValueError, match="does not lie in"):
        SequentialTest(1.0).observe(value)


@pytest.mark.parametrize(
    "rules", [{"alpha": 0}, {"success_margin": 1}, {"min_sessions": 0}, {"max_incidents": -1}]
)
def test_rules_that_make_no_sense_are_refused(rules):
    with pytest.raises(ValueError, match="must"):
        StopRules(**rules)
