"""Whatever is reserved, settled and released in whatever order, no window exceeds its limit."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from helpers.scale import scaled
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import QuotaExceededError
from mlflow_agent_plugin.package import QuotaResource as R
from mlflow_agent_plugin.package import QuotaRule
from mlflow_agent_plugin.trust.quotas import BoundQuota, QuotaBook, QuotaUse
from mlflow_agent_plugin.trust.quotas.leases import MemoryLeases

LIMIT, WINDOW, PLACES = 20, 60, 3


class Sums(dict):
    """The two methods of a storage that are used."""

    def incr(self, key, expiry, amount=1):
        self[key] = self.get(key) + amount
        return self[key]

    def get(self, key):
        return super().get(key, 0)


class Quotas(RuleBasedStateMachine):
    """One book against a plain list of what each tenant has used in the window that is open."""

    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=timezone.utc)
        self.sums = Sums()
        self.book = QuotaBook(
            [
                BoundQuota(
                    QuotaRule(per="tenant", of="tokens", limit=LIMIT, every_seconds=WINDOW), "x"
                ),
                BoundQuota(QuotaRule(per="tenant", of="concurrency", limit=PLACES), "x"),
            ],
            storage=self.sums,
            leases=MemoryLeases(lambda: self.now),
            clock=lambda: self.now,
        )
        self.window = int(self.now.timestamp() // WINDOW)
        self.used = {"a": 0, "b": 0}
        self.running = {"a": 0, "b": 0}

    @rule(target=held, tenant=st.sampled_from("ab"), amount=st.integers(0, LIMIT + 5))
    def reserve(self, tenant, amount):
        use = QuotaUse(Actor("u", tenant), "s", "bank")
        fits = self.used[tenant] + max(amount, 1) <= LIMIT and self.running[tenant] < PLACES
        try:
            reservation = self.book.reserve(
                use, {R.TOKENS: amount, R.CONCURRENCY: 1}, lease_seconds=1e6
            )
        except QuotaExceededError:
            assert not fits
            return None
        assert fits
        self.used[tenant] += amount
        self.running[tenant] += 1
        return (reservation, tenant, amount, self.window)

    @rule(one=consumes(held), share=st.floats(0, 1))
    def settle(self, one, share):
        if one is None:
            return
        reservation, tenant, amount, window = one
        real = int(amount * share)
        reservation.settle({R.TOKENS: real})
        reservation.release()
        self.running[tenant] -= 1
        if window == self.window:
            self.used[tenant] -= amount - real

    @rule(seconds=st.integers(1, 2 * WINDOW))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)
        window = int(self.now.timestamp() // WINDOW)
        if window != self.window:
            self.window = window
            self.used = {"a": 0, "b": 0}

    @invariant()
    def nothing_is_negative_or_beyond(self):
        assert all(0 <= value <= LIMIT for value in self.sums.values())


Quotas.TestCase.settings = settings(
    max_examples=scaled(60, 1000), stateful_step_count=40, deadline=None
)
TestQuotas = Quotas.TestCase
