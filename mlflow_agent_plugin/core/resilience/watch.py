"""Watches the attempts of one tool call: what the runner asks before, and tells after, each.

The guard that admitted the call makes the watch; the runner finds it through a context variable of
the thread the call runs in.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from mlflow_agent_plugin.core.resilience.breaker import (
    CircuitBreaker,
    Refusal,
    RetryBudget,
    Ticket,
)
from mlflow_agent_plugin.core.resilience.bulkhead import Slot
from mlflow_agent_plugin.core.resilience.faults import Fault, FaultKind
from mlflow_agent_plugin.package.contract import BreakerRule

LONGEST_PATIENCE_SECONDS = 5.0
"""A service that asks for a longer wait is not waited for: the call is refused with that wait."""

DEFAULT_HOLD_SECONDS = 1.0
"""Wait after a 429 that does not say for how long."""

MOST_TRACKED = 10_000
"""Pairs of tool and tenant that are remembered; the one that was idle longest is forgotten."""


@dataclass
class ToolHealth:
    """How one tool does for one tenant."""

    breaker: CircuitBreaker
    retries: RetryBudget = field(default_factory=RetryBudget)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class HealthRecords:
    """The health of every pair of tool and tenant in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: OrderedDict[tuple[object, ...], ToolHealth] = OrderedDict()

    def of(self, key: tuple[object, ...], rule: BreakerRule) -> ToolHealth:
        """Return the health under `key`; a new one begins closed."""
        with self._lock:
            found = self._records.get(key)
            if found is None:
                found = ToolHealth(CircuitBreaker(rule.outages, rule.open_seconds))
                self._records[key] = found
                if len(self._records) > MOST_TRACKED:
                    self._records.popitem(last=False)
            else:
                self._records.move_to_end(key)
            return found


class CallWatch:
    """The attempts of one call.

    Args:
        health: Of the tool, for the tenant.
        ticket: Permission for the first attempt.
        slot: The call's place in the bulkhead.
        may_go_on: Raises when the tool may not be tried again (kill switch, turn too long).
        max_step_seconds: Longest attempt, None: as long as the contract says.
    """

    def __init__(
        self,
        health: ToolHealth,
        ticket: Ticket,
        slot: Slot,
        *,
        may_go_on: Callable[[], None],
        max_step_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slot = slot
        self._health = health
        self._ticket: Ticket | None = ticket
        self._may_go_on = may_go_on
        self._max_step_seconds = max_step_seconds
        self._monotonic = monotonic
        with health.lock:
            health.retries.earn()

    def timeout_seconds(self, limit: float) -> float:
        """Return how long an attempt may take, at most `limit`."""
        return limit if self._max_step_seconds is None else min(limit, self._max_step_seconds)

    def ended(self, fault: Fault | None) -> None:
        """Note how an attempt ended; None: well."""
        now = self._monotonic()
        with self._health.lock:
            ticket, self._ticket = self._ticket, None
            breaker = self._health.breaker
            if fault is not None and fault.kind is FaultKind.RATE_LIMITED:
                wait = fault.retry_after_seconds
                breaker.hold(now, DEFAULT_HOLD_SECONDS if wait is None else wait)
            if ticket is None:
                return
            if fault is None or fault.kind is FaultKind.FAILURE:
                breaker.answered(ticket)
            elif fault.kind is FaultKind.OUTAGE:
                breaker.failed(ticket, now)
                if fault.retry_after_seconds is not None:
                    breaker.hold(now, fault.retry_after_seconds)
            else:
                breaker.abandoned(ticket, now)

    def may_retry(self, fault: Fault) -> bool:
        """Return whether another attempt is worth its load."""
        wait = fault.retry_after_seconds
        if wait is not None and wait > LONGEST_PATIENCE_SECONDS:
            return False
        with self._health.lock:
            return self._health.breaker.is_closed and self._health.retries.spend()

    def begin_retry(self) -> bool:
        """Return whether the next attempt may begin, after the wait."""
        try:
            self._may_go_on()
        except Exception:
            return False
        with self._health.lock:
            found = self._health.breaker.admit(self._monotonic())
        if isinstance(found, Refusal):
            return False
        self._ticket = found
        return True

    def close(self) -> None:
        """The call has ended; a permission that was not used is given back."""
        with self._health.lock:
            if self._ticket is not None:
                self._health.breaker.abandoned(self._ticket, self._monotonic())
                self._ticket = None


CURRENT_WATCH: ContextVar[CallWatch | None] = ContextVar("mlflow_agents_watch", default=None)
