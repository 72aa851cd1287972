"""State machines that keep calls away from a service that does not work. Pure: time is passed in.

Circuit breaker, per tool and tenant:
- closed: calls pass. `outages` outages in a row open it; any answer starts the count again.
- open: calls are refused until `open_seconds` have passed.
- half open: one call at a time may try. An answer closes it, an outage opens it again, each time
  for twice as long, up to `LONGEST_OPEN_SECONDS`. A try that never ends counts as an outage.
- What a call that began before the last change of state brings back is ignored.
- hold: while the service's own ``Retry-After`` runs, calls are refused whatever the state.

Retry budget: each first attempt earns a fifth of a retry, up to `MOST_RETRIES`; when none is left,
calls fail at once. However many callers there are, retries add a fifth to the load and no more.

Why not a library: pybreaker runs the call while it holds its lock, so that calls run one after the
other, reads the time itself, and lets any late result change the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LONGEST_OPEN_SECONDS = 600.0
MOST_RETRIES = 10.0
EARNED_RETRIES = 0.2


@dataclass(frozen=True)
class Ticket:
    """Permission for one call; give it back with the result.

    Attributes:
        era: State the breaker was in: a result of an earlier one changes nothing.
    """

    era: int


@dataclass(frozen=True)
class Refusal:
    """No call now.

    Attributes:
        retry_after_seconds: When it makes sense to ask again.
        is_hold: The service asked for it; else the breaker is open.
    """

    retry_after_seconds: float
    is_hold: bool = False


@dataclass
class CircuitBreaker:
    """One breaker; its owner sees to it that one thread at a time uses it.

    Args:
        outages: Outages in a row that open it.
        open_seconds: How long it stays open the first time.
    """

    outages: int
    open_seconds: float
    _count: int = field(default=0, init=False)
    _era: int = field(default=0, init=False)
    _openings: int = field(default=0, init=False)
    _open_until: float | None = field(default=None, init=False)
    _trying_until: float | None = field(default=None, init=False)
    _hold_until: float | None = field(default=None, init=False)

    def admit(self, now: float) -> Ticket | Refusal:
        """Ask to make a call."""
        if self._hold_until is not None:
            if now < self._hold_until:
                return Refusal(self._hold_until - now, is_hold=True)
            self._hold_until = None
        if self._trying_until is not None:
            if now < self._trying_until:
                return Refusal(self._trying_until - now)
            self._open(now)
        if self._open_until is None:
            return Ticket(self._era)
        if now < self._open_until:
            return Refusal(self._open_until - now)
        self._era += 1
        self._open_until, self._trying_until = None, now + self._period()
        return Ticket(self._era)

    def answered(self, ticket: Ticket) -> None:
        """The service answered, if only with a no."""
        if ticket.era != self._era:
            return
        self._count = 0
        if self._trying_until is not None:
            self._era += 1
            self._openings, self._trying_until = 0, None

    def failed(self, ticket: Ticket, now: float) -> None:
        """The call ended in an outage."""
        if ticket.era != self._era:
            return
        if self._trying_until is not None:
            self._open(now)
            return
        self._count += 1
        if self._count >= self.outages:
            self._open(now)

    def abandoned(self, ticket: Ticket, now: float) -> None:
        """The call said nothing about the service: it was not made, or refused for its rate."""
        if ticket.era == self._era and self._trying_until is not None:
            # Somebody else may try at once.
            self._era += 1
            self._trying_until, self._open_until = None, now

    def hold(self, now: float, seconds: float) -> None:
        """Keep calls away for `seconds`, because the service asked for it."""
        self._hold_until = max(now + seconds, self._hold_until or now)

    @property
    def is_closed(self) -> bool:
        """True while calls pass."""
        return self._open_until is None and self._trying_until is None

    def _period(self) -> float:
        doubled = self.open_seconds * 2.0 ** min(max(self._openings - 1, 0), 30)
        return min(doubled, max(LONGEST_OPEN_SECONDS, self.open_seconds))

    def _open(self, now: float) -> None:
        self._era += 1
        self._openings += 1
        self._count, self._trying_until = 0, None
        self._open_until = now + self._period()


@dataclass
class RetryBudget:
    """Retries that may be made; its owner sees to it that one thread at a time uses it."""

    left: float = MOST_RETRIES

    def earn(self) -> None:
        """A first attempt is made."""
        self.left = min(MOST_RETRIES, self.left + EARNED_RETRIES)

    def spend(self) -> bool:
        """Take one retry; False if there is none."""
        if self.left < 1:
            return False
        self.left -= 1
        return True
