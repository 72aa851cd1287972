"""Live metrics of the serving processes, for Prometheus.

Rules:
- One port per host and service: of the workers that share it one answers, for all of them; when it
  dies another takes over within seconds. `mlflow models serve` has no route of ours, so this is a
  port of its own, off unless ``MLFLOW_AGENTS_METRICS_PORT`` is set.
- Workers of one service share a folder of counters, named after the port and the process that
  started them; a restart begins at zero, as Prometheus expects.
- Labels are names from the manifest and closed vocabularies, and tenants: never sessions, users or
  texts. A name that is in no manifest (a model may make up a tool) counts as ``other``.

Metrics (all begin with ``mlflow_agents_``): requests_total, request_seconds, steps_total,
step_seconds, tokens_total, cost_usd_total, policy_denials_total, approvals_total, overrides_total,
safety_violations_total, tool_cost_usd_total, approval_wait_seconds, spool_events, spool_bytes,
spool_dropped_total.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.spool import SpoolState
    from mlflow_agent_plugin.observability.steps import Step

_logger = logging.getLogger(__name__)

PREFIX = "mlflow_agents_"
RETRY_SECONDS = 5.0
MAX_TENANTS = 200
"""Tenants with counters of their own; later ones share ``other``."""

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAITS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"


@dataclass
class _Meters:
    """The metrics of this process."""

    requests: Any
    request_seconds: Any
    steps: Any
    step_seconds: Any
    tokens: Any
    cost: Any
    denials: Any
    approvals: Any
    overrides: Any
    violations: Any
    tool_cost: Any
    waits: Any
    tenants: set[str]


_meters: _Meters | None = None
_lock = threading.Lock()
_serving: dict[tuple[int, int], threading.Thread] = {}
_spools: list[Callable[[], SpoolState]] = []


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Answer Prometheus on `port`, or stand by while another worker of this service does."""
    with _lock:
        _make_meters(port)
        key = (os.getpid(), port)
        if key in _serving:
            return
        thread = threading.Thread(
            target=_serve, args=(port, host), name="mlflow-agents-metrics", daemon=True
        )
        _serving[key] = thread
        thread.start()


def observe(
    row: Mapping[str, Any], steps: Sequence[Step] = (), answers: Iterable[tuple[str, float]] = ()
) -> None:
    """Count one finished request.

    Args:
        row: Its monitoring row.
        steps: Its steps.
        answers: State and waiting time of each approval that was answered for it.
    """
    with _lock:
        meters = _make_meters(0)
        tenant = str(row["tenant"])
        if tenant not in meters.tenants and len(meters.tenants) >= MAX_TENANTS:
            tenant = "other"
        meters.tenants.add(tenant)
    agent, version = str(row["agent"]), str(row.get("version") or "")
    meters.requests.labels(agent, version, tenant, str(row["outcome"])).inc()
    if row.get("seconds") is not None:
        meters.request_seconds.labels(agent, version).observe(row["seconds"])
    for kind in ("input", "output"):
        meters.tokens.labels(agent, version, tenant, kind).inc(row.get(f"{kind}_tokens") or 0)
    meters.cost.labels(agent, version, tenant).inc(row.get("cost_usd") or 0.0)
    meters.approvals.labels(agent, version).inc(row.get("approvals") or 0)
    meters.overrides.labels(agent, version).inc(row.get("rejected") or 0)
    for step in steps:
        # A model can call a tool that does not exist by any name: no label from it.
        name = "other" if step.error == "invalid" else step.name
        meters.steps.labels(agent, version, step.kind, name, step.status).inc()
        if step.seconds is not None:
            meters.step_seconds.labels(agent, version, step.kind, name).observe(step.seconds)
        if step.status == "denied":
            meters.denials.labels(agent, version, name).inc()
        if step.kind == "tool" and step.cost_usd:
            meters.tool_cost.labels(agent, version, name).inc(step.cost_usd)
    for kind in row.get("violations") or ():
        meters.violations.labels(agent, version, kind).inc()
    for state, waited in answers:
        meters.waits.labels(agent, version, state).observe(max(0.0, waited))


def watch_spool(state: Callable[[], SpoolState]) -> None:
    """Show a spool's state among the metrics; `state` is called when Prometheus asks."""
    with _lock:
        _spools.append(state)


def shared_folder(port: int) -> Path:
    """Return the folder in which the workers of one service keep their counters."""
    # Workers of one service have one parent; a service that starts again has another.
    owner = os.getuid() if hasattr(os, "getuid") else 0
    name = f"mlflow-agents-metrics-{owner}-{port}-{os.getppid()}"
    return Path(tempfile.gettempdir()) / name


def _make_meters(port: int) -> _Meters:
    """Make this process's metrics once; the folder must be known before the first of them."""
    global _meters  # noqa: PLW0603 - one set per process, as prometheus_client itself has it
    if _meters is not None:
        return _meters
    if port and not os.environ.get(_SHARED):
        folder = shared_folder(port)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else")
        os.environ[_SHARED] = str(folder)
    from prometheus_client import CollectorRegistry, Counter, Histogram, values

    if os.environ.get(_SHARED):
        # Whoever imported the library earlier made it look at its own memory only.
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()

    def counter(name: str, meaning: str, *labels: str) -> Any:
        return Counter(PREFIX + name, meaning, labels, registry=registry)

    def histogram(
        name: str, meaning: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> Any:
        return Histogram(PREFIX + name, meaning, labels, registry=registry, buckets=buckets)

    of = ("agent", "version")
    _meters = _Meters(
        requests=counter("requests", "Requests answered, by outcome.", *of, "tenant", "outcome"),
        request_seconds=histogram("request_seconds", "Time of a request, end to end.", *of),
        steps=counter("steps", "Model and tool calls, searches.", *of, "kind", "name", "status"),
        step_seconds=histogram("step_seconds", "Time of a step.", *of, "kind", "name"),
        tokens=counter("tokens", "Tokens into and out of models.", *of, "tenant", "direction"),
        cost=counter("cost_usd", "Cost in US dollars.", *of, "tenant"),
        denials=counter("policy_denials", "Tool calls the policies denied.", *of, "tool"),
        approvals=counter("approvals", "Tool calls left waiting for a human.", *of),
        overrides=counter("overrides", "Tool calls a human rejected.", *of),
        violations=counter("safety_violations", "Safety violations.", *of, "kind"),
        tool_cost=counter("tool_cost_usd", "Cost of tool calls in US dollars.", *of, "tool"),
        waits=histogram(
            "approval_wait_seconds", "Until a person answered.", *of, "state", buckets=_WAITS
        ),
        tenants=set(),
    )
    return _meters


def _serve(port: int, host: str) -> None:
    """Answer on the port; try again while somebody else has it."""
    from prometheus_client import CollectorRegistry, multiprocess, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    class Spools:
        """The spools' state, read when it is asked for."""

        def collect(self) -> Iterable[Any]:
            states = [found for found in map(_spool_state, list(_spools)) if found is not None]
            waiting = GaugeMetricFamily(
                PREFIX + "spool_events", "Traces on disk.", labels=["state"]
            )
            waiting.add_metric(["waiting"], sum(state.waiting for state in states))
            waiting.add_metric(["refused"], sum(state.refused for state in states))
            size = GaugeMetricFamily(PREFIX + "spool_bytes", "Disk the spool takes.")
            size.add_metric([], sum(state.bytes for state in states))
            dropped = CounterMetricFamily(
                PREFIX + "spool_dropped", "Traces dropped for want of room."
            )
            dropped.add_metric([], sum(s.dropped + s.dropped_incidents for s in states))
            return [waiting, size, dropped]

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(Spools())
    said = False
    waiting = threading.Event()
    while True:
        try:
            start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            if not said:
                said = True
                _logger.info("Metrics port %d is taken (%s): standing by", port, error)
            waiting.wait(RETRY_SECONDS)
        else:
            _logger.info("Metrics on http://%s:%d/metrics", host, port)
            return


def _spool_state(state: Callable[[], SpoolState]) -> SpoolState | None:
    try:
        return state()
    except Exception:
        _logger.warning("A spool's state cannot be read", exc_info=True)
        return None
