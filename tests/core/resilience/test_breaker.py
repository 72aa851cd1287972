"""Circuit breaker and retry budget, against their rules."""

from __future__ import annotations

import pytest
from helpers.scale import scaled
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mlflow_agent_plugin.core.resilience.breaker import (
    LONGEST_OPEN_SECONDS,
    MOST_RETRIES,
    CircuitBreaker,
    Refusal,
    RetryBudget,
    Ticket,
)


@pytest.fixture
def breaker():
    return CircuitBreaker(outages=3, open_seconds=10)


def fail(breaker, now, times=1):
    for _ in range(times):
        breaker.failed(breaker.admit(now), now)


def test_outages_in_a_row_open_it_and_the_refusal_says_for_how_long(breaker):
    fail(breaker, 0, times=3)
    assert breaker.admit(4) == Refusal(6)
    assert not breaker.is_closed


def test_any_answer_starts_the_count_again(breaker):
    for _ in range(10):
        fail(breaker, 0, times=2)
        breaker.answered(breaker.admit(0))
    assert breaker.is_closed


def test_after_its_time_one_call_may_try_and_the_others_wait_for_it(breaker):
    fail(breaker, 0, times=3)
    assert isinstance(breaker.admit(10), Ticket)
    assert isinstance(breaker.admit(11), Refusal)


def test_a_try_that_is_answered_closes_it(breaker):
    fail(breaker, 0, times=3)
    breaker.answered(breaker.admit(10))
    fail(breaker, 11, times=2)
    assert breaker.is_closed


def test_each_failed_try_opens_it_for_twice_as_long_up_to_a_bound(breaker):
    fail(breaker, 0, times=3)
    now, waits = 10.0, []
    for _ in range(10):
        fail(breaker, now)
        waits.append(breaker.admit(now).retry_after_seconds)
        now += waits[-1]
    assert waits[:4] == [20, 40, 80, 160]
    assert max(waits) == LONGEST_OPEN_SECONDS


def test_a_try_that_never_ends_counts_as_an_outage(breaker):
    fail(breaker, 0, times=3)
    lost = breaker.admit(10)
    assert breaker.admit(20).retry_after_seconds == 20
    breaker.answered(lost)
    assert not breaker.is_closed


def test_a_late_result_of_an_earlier_state_changes_nothing(breaker):
    early = [breaker.admit(0) for _ in range(5)]
    fail(breaker, 0, times=3)
    breaker.answered(early[0])
    breaker.failed(early[1], 5)
    assert breaker.admit(5) == Refusal(5)


def test_a_try_that_was_not_made_leaves_the_next_one_the_chance(breaker):
    fail(breaker, 0, times=3)
    breaker.abandoned(breaker.admit(10), 10)
    assert isinstance(breaker.admit(10), Ticket)


def test_a_hold_refuses_whatever_the_state_and_ends_by_itself(breaker):
    breaker.hold(0, 7)
    breaker.hold(0, 2)
    assert breaker.admit(6.5) == Refusal(0.5, is_hold=True)
    assert isinstance(breaker.admit(7), Ticket)


def test_retries_are_a_fifth_of_the_calls_and_a_few_to_begin_with():
    budget = RetryBudget()
    made = 0
    for _ in range(1000):
        budget.earn()
        made += budget.spend()
    assert made == pytest.approx(1000 / 5 + MOST_RETRIES, abs=1)


class Breaker(RuleBasedStateMachine):
    """Random calls, results in any order, time that only goes forward."""

    tickets = Bundle("tickets")

    def __init__(self):
        super().__init__()
        self.breaker = CircuitBreaker(outages=3, open_seconds=10)
        self.now = 0.0
        self.held_until = 0.0

    @rule(target=tickets)
    def call(self):
        found = self.breaker.admit(self.now)
        if isinstance(found, Refusal):
            assert (
                0
                < found.retry_after_seconds
                <= max(LONGEST_OPEN_SECONDS, self.held_until - self.now)
            )
            return None
        assert self.now >= self.held_until, "a hold lets nothing through"
        return found

    @rule(ticket=consumes(tickets), how=st.sampled_from(["answered", "failed", "abandoned"]))
    def end(self, ticket, how):
        if ticket is None:
            return
        if how == "answered":
            self.breaker.answered(ticket)
        else:
            getattr(self.breaker, how)(ticket, self.now)

    @rule(seconds=st.floats(0, 100))
    def hold(self, seconds):
        self.breaker.hold(self.now, seconds)
        self.held_until = max(self.held_until, self.now + seconds)

    @rule(seconds=st.floats(0.1, 700))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def it_never_stays_shut(self):
        """From every state, waiting as long as refusals say leads to a call."""
        for _ in range(4):
            found = self.breaker.admit(self.now)
            if isinstance(found, Ticket):
                self.breaker.abandoned(found, self.now)
                return
            self.now += found.retry_after_seconds + 1e-6
        raise AssertionError("it stays shut")

    @invariant()
    def no_two_try_at_once_while_it_is_not_closed(self):
        if self.breaker.is_closed or self.now < self.held_until:
            return
        first = self.breaker.admit(self.now)
        if isinstance(first, Ticket) and not self.breaker.is_closed:
            assert isinstance(self.breaker.admit(self.now), Refusal)
            self.breaker.abandoned(first, self.now)


Breaker.TestCase.settings = settings(
    max_examples=scaled(50, 3000), stateful_step_count=40, deadline=None
)
TestBreaker = Breaker.TestCase
