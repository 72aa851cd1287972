"""The gateway's guards: kill switch and quotas, then the tool's own health.

A call they refuse has not run, and can be tried again: status ``limited``, with when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow_agent_plugin.core.resilience.breaker import Refusal
from mlflow_agent_plugin.core.resilience.bulkhead import WAIT_SECONDS, Bulkhead
from mlflow_agent_plugin.core.resilience.spend import Amount, TurnSpend
from mlflow_agent_plugin.core.resilience.watch import CURRENT_WATCH, CallWatch, HealthRecords
from mlflow_agent_plugin.core.tool_runner import ToolFailedError
from mlflow_agent_plugin.core.turn import CURRENT_TURN
from mlflow_agent_plugin.entities import CallStatus
from mlflow_agent_plugin.errors import (
    BudgetExceededError,
    LimitsUnavailableError,
    QuotaExceededError,
    StoppedError,
)
from mlflow_agent_plugin.package import QuotaResource
from mlflow_agent_plugin.package.quotas import micro_usd
from mlflow_agent_plugin.trust import (
    CallRefusedError,
    GovernedCall,
    QuotaBook,
    QuotaUse,
    Reservation,
    SwitchBoard,
)

CALLS_PER_TENANT = 64
"""Calls of all tools together that one tenant may have running in one process."""

LEASE_MARGIN_SECONDS = 60.0


class QuotaGuard:
    """Reserves a call's quotas and its part of the turn's budget; settles them when it has ended.

    A call that ran, or may have run, counts, and costs unless it failed without an effect; one that
    was refused before it ran counts nowhere.

    Args:
        switches: What operators have stopped.
        book: The agent's quotas.
        keep_spend: Called with (session, amount) when a call has cost something.
    """

    def __init__(
        self,
        switches: SwitchBoard,
        book: QuotaBook,
        *,
        keep_spend: Callable[[str, Amount], None],
    ) -> None:
        self._switches = switches
        self._book = book
        self._keep_spend = keep_spend

    def forget(self) -> None:
        """Begin counting anew."""
        self._book.forget()

    @contextmanager
    def admit(self, governed: GovernedCall) -> Iterator[None]:
        """See `CallGuard`."""
        cost = micro_usd(governed.contract.cost_usd)
        turn = CURRENT_TURN.get()
        spend = None if turn is None else turn.spend
        quotas = self._reserve(governed, cost, spend)
        used: int | None = cost  # None: it does not count at all
        try:
            yield
        except CallRefusedError as refusal:
            if refusal.status is CallStatus.FAILED:
                # It has run all the same if only what it gave was not fit to be used.
                used = 0 if isinstance(refusal.__cause__, ToolFailedError) else cost
            elif refusal.status is not CallStatus.IN_DOUBT:
                used = None
            raise
        finally:
            if spend is not None:
                spend.settle(Amount(micro_usd=cost), Amount(micro_usd=used or 0))
            if used is None:
                quotas.release()
            else:
                quotas.settle({QuotaResource.COST_USD: used})
            if used:
                self._keep_spend(governed.call.session_id, Amount(micro_usd=used))

    def _reserve(self, governed: GovernedCall, cost: int, spend: TurnSpend | None) -> Reservation:
        contract, call = governed.contract, governed.call
        lease = (contract.timeout_seconds + 30) * contract.retry.attempts + LEASE_MARGIN_SECONDS
        amounts = {QuotaResource.CALLS: 1, QuotaResource.CONCURRENCY: 1}
        if cost:
            amounts[QuotaResource.COST_USD] = cost
        reserved = False
        try:
            check_switches(self._switches, governed)
            if spend is not None:
                spend.check_time(time.monotonic())
                spend.reserve(Amount(micro_usd=cost))
                reserved = True
            use = QuotaUse(governed.actor, call.session_id, governed.agent, call.tool)
            return self._book.reserve(use, amounts, lease_seconds=lease)
        except StoppedError as error:
            raise _refused("stopped", error.problem) from error
        except (BudgetExceededError, QuotaExceededError, LimitsUnavailableError) as error:
            if reserved and spend is not None:
                spend.settle(Amount(micro_usd=cost), Amount())
            wait = getattr(error, "retry_after_seconds", None)
            raise _refused("limited", error.problem, wait) from error


class HealthGuard:
    """Keeps calls from tools that are out of order or full; watches the attempts of the others.

    Args:
        switches: Asked again before every further attempt.
        max_step_seconds: Longest attempt, None: as long as the contract says.
        monotonic: Time for breakers.
    """

    def __init__(
        self,
        switches: SwitchBoard,
        *,
        max_step_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._switches = switches
        self._max_step_seconds = max_step_seconds
        self._monotonic = monotonic
        self._health = HealthRecords()
        self._bulkhead = Bulkhead()

    def forget(self) -> None:
        """Take every tool for healthy again."""
        self._health = HealthRecords()

    @contextmanager
    def admit(self, governed: GovernedCall) -> Iterator[None]:
        """See `CallGuard`."""
        tool, actor = governed.call.tool, governed.actor
        whose = (actor.tenant, actor.verified)
        slot = self._bulkhead.enter(
            ((whose, CALLS_PER_TENANT), ((*whose, tool), governed.contract.concurrency))
        )
        if slot is None:
            raise _refused(
                "limited", f"too many calls of {tool!r} are running already", WAIT_SECONDS
            )
        try:
            health = self._health.of((*whose, tool), governed.contract.breaker)
            with health.lock:
                ticket = health.breaker.admit(self._monotonic())
            if isinstance(ticket, Refusal):
                why = "asked to be left alone" if ticket.is_hold else "is out of order"
                wait = round(ticket.retry_after_seconds, 3)
                raise _refused("limited", f"the service behind {tool!r} {why}", wait)
            turn = CURRENT_TURN.get()

            def may_go_on() -> None:
                check_switches(self._switches, governed)
                if turn is not None and turn.spend is not None:
                    turn.spend.check_time(time.monotonic())

            watch = CallWatch(
                health,
                ticket,
                slot,
                may_go_on=may_go_on,
                max_step_seconds=self._max_step_seconds,
                monotonic=self._monotonic,
            )
            token = CURRENT_WATCH.set(watch)
            try:
                yield
            finally:
                CURRENT_WATCH.reset(token)
                watch.close()
        finally:
            slot.release()


def check_switches(switches: SwitchBoard, governed: GovernedCall) -> None:
    """Return if neither the tool nor the agent nor the tenant of a call is stopped.

    Raises:
        StoppedError: One is, or it cannot be known.
    """
    switches.check(agent=governed.agent, tenant=governed.actor.tenant, tool=governed.call.tool)


def _refused(kind: str, message: str, wait: float | None = None) -> CallRefusedError:
    return CallRefusedError(CallStatus.LIMITED, kind, message, retry_after_seconds=wait)
