"""What limits a whole turn and its calls of the model: switches, quotas, budgets.

Rules:
- A turn that may not begin changes nothing: no session, no lease, no event.
- A turn that began counts as a request, however it ends; one that could not begin (the store is
  away) or turned out to be no turn (a busy session, a session of somebody else, a malformed
  request) does not.
- A call of the model begins only if its tokens and money fit the turn's and the session's budget
  and every quota, no switch is thrown, and the turn has time left.
- What a session has spent is kept in the runtime store when its budget is limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.resilience.spend import Amount, TurnSpend
from mlflow_agent_plugin.core.turn import CURRENT_TURN
from mlflow_agent_plugin.errors import (
    AgentRunError,
    ConfigError,
    RequestError,
    SessionBusyError,
    SessionNotFoundError,
)
from mlflow_agent_plugin.package import QuotaResource
from mlflow_agent_plugin.store import SessionSpend, SpendTable
from mlflow_agent_plugin.trust import QuotaUse

if TYPE_CHECKING:
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.foundation.usage import ModelUsage
    from mlflow_agent_plugin.package import Manifest, ModelSpec
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import QuotaBook, Reservation, SwitchBoard

LONGEST_TURN_SECONDS = 3600.0
"""A turn's place in a quota of concurrency is free after this at the latest."""

_NO_TURN = (RequestError, SessionNotFoundError, SessionBusyError)


@dataclass(frozen=True)
class _ModelCall:
    spend: TurnSpend
    session_id: str
    amount: Amount
    quotas: Reservation


class TurnLimits:
    """The limits of one agent's turns; also the meter of its models.

    Args:
        manifest: Of the agent.
        store: Keeps what sessions spend.
        switches: What operators have stopped.
        book: The agent's quotas.

    Raises:
        ConfigError: A quota counts money, and nobody has said what the model costs.
    """

    def __init__(
        self, manifest: Manifest, *, store: Store, switches: SwitchBoard, book: QuotaBook
    ) -> None:
        self._agent = manifest.name
        self._budgets = budgets = manifest.model.budgets
        self._switches = switches
        self._book = book
        self._spent = SpendTable(store)
        self._keeps_spend = (budgets.max_session_tokens or budgets.max_session_cost_usd) is not None
        self._counts = (
            self._keeps_spend
            or (budgets.max_tokens or budgets.max_cost_usd) is not None
            or book.limits(QuotaResource.TOKENS)
            or book.limits(QuotaResource.COST_USD)
        )
        if book.limits_all_cost and manifest.model.unpriced is not None:
            raise ConfigError(
                f"a quota of cost_usd needs the price of {manifest.model.unpriced}",
                where="MLFLOW_AGENTS_QUOTAS",
                hint="Give model.price in agent.yaml, or take the quota out.",
            )

    @contextmanager
    def request(self, actor: Actor, session_id: str) -> Iterator[Callable[[], None]]:
        """Let one turn begin; left when it has ended. Call what it gives once that is on record.

        Raises:
            StoppedError: The agent or the tenant is stopped.
            QuotaExceededError: A quota is used up.
            LimitsUnavailableError: Quotas cannot be counted.
        """
        self._switches.check(agent=self._agent, tenant=actor.tenant)
        reservation = self._book.reserve(
            QuotaUse(actor, session_id, self._agent),
            {
                QuotaResource.CONCURRENCY: 1,
                QuotaResource.TOKENS: 0,
                QuotaResource.COST_USD: 0,
                QuotaResource.REQUESTS: 1,
            },
            lease_seconds=LONGEST_TURN_SECONDS,
        )
        begun: list[bool] = []
        try:
            yield lambda: begun.append(True)
        except Exception as error:
            if not begun or isinstance(error, _NO_TURN):
                reservation.release()
            raise
        finally:
            reservation.settle({})

    def open_spend(self, session_id: str) -> TurnSpend:
        """Return the budget of a turn that begins now."""
        before = self._spent.get(session_id) if self._keeps_spend else SessionSpend()
        return TurnSpend(
            self._budgets, Amount(before.tokens, before.cost_micro_usd), started=time.monotonic()
        )

    def keep_spend(self, session_id: str, amount: Amount) -> None:
        """Add to what a session has spent, if that is limited."""
        if self._keeps_spend and amount:
            self._spent.add(session_id, SessionSpend(amount.tokens, amount.micro_usd))

    # --- the meter of the models (`foundation.usage.ModelMeter`) ---------------------------------

    def begin(self, spec: ModelSpec, estimate: ModelUsage) -> Any:
        """Reserve what a call of the model may take.

        Raises:
            StoppedError: The agent or the tenant is stopped.
            BudgetExceededError: It does not fit the turn's or the session's budget.
            QuotaExceededError: A quota is used up.
            LimitsUnavailableError: Quotas cannot be counted.
            AgentRunError: The call belongs to no turn, so nobody could be charged.
        """
        turn = CURRENT_TURN.get()
        if turn is None or turn.spend is None:
            if self._counts:
                raise AgentRunError(
                    "the model was called outside a running turn, where nobody can be charged",
                    hint="Call it from the graph's own nodes.",
                )
            return None
        self._switches.check(agent=self._agent, tenant=turn.actor.tenant)
        turn.spend.check_time(time.monotonic())
        if not self._counts:
            return None
        amount = Amount(estimate.tokens, estimate.micro_usd(spec))
        turn.spend.reserve(amount)
        try:
            quotas = self._book.reserve(
                QuotaUse(turn.actor, turn.session_id, self._agent),
                {QuotaResource.TOKENS: amount.tokens, QuotaResource.COST_USD: amount.micro_usd},
            )
        except BaseException:
            turn.spend.settle(amount, Amount())
            raise
        return _ModelCall(turn.spend, turn.session_id, amount, quotas)

    def end(self, spec: ModelSpec, reserved: Any, usage: ModelUsage) -> None:
        """Correct a reservation to what the call took."""
        turn = CURRENT_TURN.get()
        used = Amount(usage.tokens, usage.micro_usd(spec))
        if not isinstance(reserved, _ModelCall):
            if turn is not None and turn.spend is not None:
                turn.spend.settle(Amount(), used, of_model=True)
            return
        reserved.spend.settle(reserved.amount, used, of_model=True)
        reserved.quotas.settle(
            {QuotaResource.TOKENS: used.tokens, QuotaResource.COST_USD: used.micro_usd}
        )
        self.keep_spend(reserved.session_id, used)
