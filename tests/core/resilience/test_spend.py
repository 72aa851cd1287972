"""A budget never lets a step begin that does not fit, and forgets nothing that was taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.core.resilience.spend import Amount, TurnSpend
from mlflow_agent_plugin.errors import BudgetExceededError
from mlflow_agent_plugin.package.manifest import Budgets


def spend(session=Amount(), **budgets):  # noqa: B008 - frozen
    return TurnSpend(Budgets(**budgets), session, started=0.0)


@pytest.mark.parametrize(
    ("budgets", "amount", "word"),
    [
        ({"max_tokens": 10}, Amount(tokens=11), "turn's budget of 10 tokens"),
        ({"max_session_tokens": 10}, Amount(tokens=11), "session's budget of 10 tokens"),
        ({"max_cost_usd": 0.5}, Amount(micro_usd=500_001), "turn's budget of 0.5 dollars"),
        ({"max_session_cost_usd": 0.5}, Amount(micro_usd=500_001), "session's budget"),
    ],
)
def test_what_does_not_fit_does_not_begin_and_takes_nothing(budgets, amount, word):
    turn = spend(**budgets)
    with pytest.raises(BudgetExceededError, match=word):
        turn.reserve(amount)
    assert turn.taken == Amount()


def test_what_the_session_took_before_counts():
    turn = spend(Amount(tokens=8), max_session_tokens=10)
    turn.reserve(Amount(tokens=2))
    with pytest.raises(BudgetExceededError):
        turn.reserve(Amount(tokens=1))


def test_a_turn_that_runs_for_too_long_begins_no_further_step():
    turn = spend(max_seconds=5)
    turn.check_time(5)
    with pytest.raises(BudgetExceededError, match="5 seconds"):
        turn.check_time(5.1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80)), max_size=30))
def test_after_every_settlement_what_was_taken_is_what_was_used(steps):
    turn, used = spend(max_tokens=100), 0
    for reserved, real in steps:
        try:
            turn.reserve(Amount(tokens=reserved))
        except BudgetExceededError:
            assert used + reserved > 100
            continue
        assert used + reserved <= 100 or reserved == 0
        turn.settle(Amount(tokens=reserved), Amount(tokens=real), of_model=True)
        used += real
        assert turn.taken.tokens == turn.model.tokens == used
