"""What the front end itself counts, for Prometheus; what agents do is counted by `observability`.

Rules:
- Labels are agents, routes and statuses: never a user, a tenant or a text.
- Several workers put their numbers together in ``PROMETHEUS_MULTIPROC_DIR``, which
  `mlflow-agents serve` sets; then ``/metrics`` shows everything counted there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Meters:
    """The counters of one worker.

    Args:
        agents: Names of the served agents.
    """

    def __init__(self, agents: Sequence[str]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mlflow_agents_http_requests", "Answered requests.", ("route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "mlflow_agents_http_seconds", "Time to the answer, or to its first byte.", ("route",),
            registry=self._registry,
        )  # fmt: skip
        self._running = Gauge(
            "mlflow_agents_http_turns_running", "Turns that run now.", ("agent",),
            registry=self._registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._not_followed = Counter(
            "mlflow_agents_serve_not_followed", "Looks at registry or store that failed.",
            ("name",), registry=self._registry,
        )  # fmt: skip
        self._shadows = Gauge(
            "mlflow_agents_serve_shadow_turns", "Turns shown to shadows, and skipped ones.",
            ("result",), registry=self._registry, multiprocess_mode="livesum",
        )  # fmt: skip
        for name in agents:
            self._running.labels(name).set(0)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def not_followed(self, name: str) -> None:
        """Count a look at registry or store that failed."""
        self._not_followed.labels(name).inc()

    def shadows(self, shown: int, skipped: int) -> None:
        """Note how many turns shadows were shown, and how many not."""
        self._shadows.labels("shown").set(shown)
        self._shadows.labels("skipped").set(skipped)

    @contextmanager
    def turn(self, agent: str) -> Iterator[None]:
        """Count a turn while it runs."""
        self._running.labels(agent).inc()
        try:
            yield
        finally:
            self._running.labels(agent).dec()

    def render(self) -> tuple[bytes, str]:
        """Return the numbers in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry: Any = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
