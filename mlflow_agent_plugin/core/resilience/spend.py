"""The budget of one turn and of its session: tokens, money, time. Pure: time is passed in.

Rules:
- What a step may take is reserved before it begins, and corrected to what it took.
- A step whose reservation does not fit does not begin. One that took more than was reserved has
  taken it: the next one does not fit.
- Steps of one turn may run side by side.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from mlflow_agent_plugin.errors import BudgetExceededError
from mlflow_agent_plugin.package.manifest import Budgets
from mlflow_agent_plugin.package.quotas import MICRO, micro_usd


@dataclass(frozen=True)
class Amount:
    """Tokens of the model, in and out, and money in millionths of a dollar."""

    tokens: int = 0
    micro_usd: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.micro_usd + other.micro_usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.micro_usd - other.micro_usd)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.micro_usd)


@dataclass
class TurnSpend:
    """What one turn has taken, against its budget.

    Args:
        budgets: Of the agent.
        session: What the session had taken before this turn.
        started: When the turn began, in seconds of any steady clock.
    """

    budgets: Budgets
    session: Amount
    started: float
    taken: Amount = Amount()
    model: Amount = Amount()
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check_time(self, now: float) -> None:
        """Return if a step may still begin.

        Raises:
            BudgetExceededError: The turn has run for too long.
        """
        limit = self.budgets.max_seconds
        if limit is not None and now - self.started > limit:
            raise BudgetExceededError(
                f"this turn has used its {limit:g} seconds", where="model.budgets.max_seconds"
            )

    def reserve(self, amount: Amount) -> None:
        """Take `amount` if all of it fits; an amount of nothing always does.

        Raises:
            BudgetExceededError: It does not fit.
        """
        if not amount:
            return
        budgets = self.budgets
        with self._lock:
            turn = self.taken + amount
            session = self.session + turn
            limits = (
                ("max_tokens", budgets.max_tokens, turn.tokens, "turn"),
                ("max_session_tokens", budgets.max_session_tokens, session.tokens, "session"),
                ("max_cost_usd", _micro(budgets.max_cost_usd), turn.micro_usd, "turn"),
                (
                    "max_session_cost_usd",
                    _micro(budgets.max_session_cost_usd),
                    session.micro_usd,
                    "session",
                ),
            )
            for name, limit, wanted, whose in limits:
                if limit is not None and wanted > limit:
                    raise _exceeded(name, limit, whose)
            self.taken = turn

    def settle(self, reserved: Amount, used: Amount, *, of_model: bool = False) -> None:
        """Correct what was reserved to what was used."""
        with self._lock:
            self.taken = self.taken - reserved + used
            if of_model:
                self.model = self.model + used

    @property
    def model_cost_usd(self) -> float:
        """What the model has cost in this turn."""
        return self.model.micro_usd / MICRO


def _micro(amount_usd: float | None) -> int | None:
    return None if amount_usd is None else micro_usd(amount_usd)


def _exceeded(name: str, limit: int, whose: str) -> BudgetExceededError:
    amount = f"{limit / MICRO:g} dollars" if name.endswith("usd") else f"{limit} tokens"
    return BudgetExceededError(
        f"this {whose}'s budget of {amount} does not reach for another step",
        where=f"model.budgets.{name}",
        hint="Start a new session." if whose == "session" else None,
    )
