"""From MLflow's tracing to the spool: the exporter, and one channel per tracking server.

Rules:
- A trace is on disk when the request's root span has ended, before the answer leaves; nothing is
  sent from the serving path.
- MLflow's own exporter is replaced only where it would write to a tracking server. Databricks and
  OTLP destinations stay as they are, and so do traces made under `mlflow.genai.evaluate`, which
  waits for them.
- Spans that this package did not make (a bundle's own `mlflow.start_span`, an autologger) are
  masked before they are exported anywhere.
- Sampling looks at the end of a request: an ordinary one that is not in the sample keeps its trace
  with its row and steps, and loses the spans below its root. An incident loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.entities.sensitive import mask_value
from mlflow_agent_plugin.errors import SpoolError
from mlflow_agent_plugin.observability.schema import SUMMARY_KEY
from mlflow_agent_plugin.observability.spool.delivery import MlflowReceiver, encode_trace
from mlflow_agent_plugin.observability.spool.drainer import Drainer
from mlflow_agent_plugin.observability.spool.queue import SpoolQueue, SpoolState

if TYPE_CHECKING:
    from mlflow.entities import LiveSpan, Trace

_logger = logging.getLogger(__name__)

OWN_SPAN_KEY = "agent.span"
"""Attribute of spans that were masked when they were made."""

_COMPLAINT_SECONDS = 60.0
_STATE_SECONDS = 1.0
_INCIDENT_OUTCOMES = frozenset(
    outcome.value
    for outcome in (Outcome.FAILED, Outcome.REFUSED, Outcome.ESCALATED, Outcome.WAITING_APPROVAL)
)
_INCIDENT_COUNTS = ("denied", "rejected", "failed", "approvals")


def spool_path(settings: Settings, tracking_uri: str) -> Path:
    """Return the file that keeps traces for a tracking server; its name does not give it away."""
    # The address may hold a password: hashed, it stands nowhere.
    name = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return settings.spool_dir / f"{name}.db"


def open_queue(settings: Settings, tracking_uri: str) -> SpoolQueue:
    """Open the spool of a tracking server.

    Raises:
        SpoolError: It cannot be opened.
    """
    return SpoolQueue(
        spool_path(settings, tracking_uri), max_bytes=settings.spool_max_mb * 1024 * 1024
    )


class SpoolChannel:
    """One tracking server's spool in this process, with the thread that empties it.

    Args:
        settings: Where the spool is, and its policies.
        tracking_uri: Where traces go.
    """

    def __init__(self, settings: Settings, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._settings = settings
        self._queue = open_queue(settings, tracking_uri)
        self._drainer = Drainer(self._queue, lambda: MlflowReceiver(tracking_uri))
        self._lost = 0
        self._complained = float("-inf")
        self._state: SpoolState | None = None
        self._state_at = float("-inf")

    def put(self, trace: Trace, workspace: str | None) -> None:
        """Keep a trace; one that cannot be kept is logged and counted, the request goes on."""
        try:
            incident = is_incident(trace)
            if not incident:
                _sample(trace, self._settings.trace_sampling)
            self._queue.put(
                trace.info.trace_id, encode_trace(trace, workspace=workspace), incident=incident
            )
        except Exception:
            self._lost += 1
            now = time.monotonic()
            if now - self._complained > _COMPLAINT_SECONDS:
                self._complained = now
                _logger.exception("The spool does not take traces (%d lost so far)", self._lost)
            return
        self._drainer.wake()

    def check(self) -> None:
        """Refuse to go on if the spool is full and set to stop the agent.

        Raises:
            SpoolError: It is.
        """
        if self._settings.spool_when_full != "stop":
            return
        state = self.state()
        if state.full:
            raise SpoolError(
                f"the spool is full ({state.waiting} traces wait for the tracking server)",
                where=str(self._queue.path),
                hint="Bring the tracking server back, or raise MLFLOW_AGENTS_SPOOL_MAX_MB.",
            )

    def state(self) -> SpoolState:
        """Return the spool's state, at most a second old.

        Raises:
            SpoolError: It cannot be read.
        """
        now = time.monotonic()
        if self._state is None or now - self._state_at > _STATE_SECONDS:
            self._state, self._state_at = self._queue.state(), now
        return self._state

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """Wait until every trace has arrived, at most so long; return whether they have."""
        return self._drainer.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Send what can be sent in time; the rest waits on disk for the next process."""
        self._drainer.close(timeout_seconds)
        self._queue.close()


class _FlushedQueue:
    """Stands where MLflow looks for its own queue: `mlflow.flush_trace_async_logging` works."""

    def __init__(self, channel: SpoolChannel) -> None:
        self._channel = channel

    def flush(self, terminate: bool = False) -> None:  # noqa: FBT001, FBT002 - MLflow's signature
        del terminate
        self._channel.flush()


@lru_cache(maxsize=1)
def _exporter_class() -> type[Any]:
    from mlflow.tracing.export.mlflow_v3 import MlflowV3SpanExporter

    class SpoolExporter(MlflowV3SpanExporter):  # type: ignore[misc] # mlflow is not followed
        """MLflow's exporter, with the spool where the network was."""

        def __init__(self, channel: SpoolChannel) -> None:
            super().__init__(channel.tracking_uri)
            self.channel = channel
            self._async_queue = _FlushedQueue(channel)

        def _export_spans_incrementally(self, spans: Any) -> None:
            if _evaluating():
                super()._export_spans_incrementally(spans)

        def _should_log_async(self) -> bool:
            return False

        def _log_trace(self, trace: Trace, prompts: Any, workspace: str | None = None) -> None:
            if trace is None or _evaluating():
                super()._log_trace(trace, prompts, workspace)
            else:
                self.channel.put(trace, workspace)

    return SpoolExporter


def _evaluating() -> bool:
    from mlflow.tracing.utils import maybe_get_request_id

    return maybe_get_request_id(is_evaluate=True) is not None


_channels: dict[tuple[int, str, Settings], SpoolChannel] = {}
_channels_lock = threading.Lock()


def ensure_spool(settings: Settings) -> SpoolChannel | None:
    """Put the spool into MLflow's tracing, if it is not there; return None where it has no place.

    MLflow makes its tracing anew when its tracking URI or destination changes: call this before
    each trace, it costs microseconds.

    Raises:
        SpoolError: The spool cannot be opened.
    """
    from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
    from mlflow.tracing.provider import _get_span_processor, _get_tracer

    processor = _get_span_processor()
    if processor is None:
        _get_tracer(__name__)  # makes the provider
        processor = _get_span_processor()
    if type(processor) is not MlflowV3SpanProcessor:
        return None
    exporter = processor.span_exporter
    if isinstance(exporter, _exporter_class()):
        return exporter.channel  # type: ignore[no-any-return]
    with _channels_lock:
        if isinstance(processor.span_exporter, _exporter_class()):
            return processor.span_exporter.channel  # type: ignore[no-any-return]
        return _install(processor, settings)


def _install(processor: Any, settings: Settings) -> SpoolChannel | None:
    from mlflow.tracing.export.mlflow_v3 import MlflowV3SpanExporter
    from mlflow.utils.databricks_utils import is_databricks_uri

    exporter = processor.span_exporter
    if type(exporter) is not MlflowV3SpanExporter:
        return None
    uri = str(exporter._client.tracking_uri)  # noqa: SLF001 - what it was made with
    if is_databricks_uri(uri):
        return None
    key = (os.getpid(), uri, settings)
    channel = _channels.get(key)
    if channel is None:
        channel = _channels[key] = SpoolChannel(settings, uri)
    # A batch in memory is what the spool is there to avoid.
    batches, processor._batch_delegate = processor._batch_delegate, None  # noqa: SLF001 - MLflow's
    if batches is not None:
        batches.shutdown()
    processor.span_exporter = _exporter_class()(channel)
    if not channel._queue.is_empty():  # noqa: SLF001 - same module; left by a process before us
        channel._drainer.wake()  # noqa: SLF001
    return channel


def close_spools(timeout_seconds: float = 5.0) -> None:
    """Send what can be sent in time and stop this process's threads; used at exit."""
    with _channels_lock:
        mine = [key for key in _channels if key[0] == os.getpid()]
        closing = [_channels.pop(key) for key in mine]
    deadline = time.monotonic() + timeout_seconds
    for channel in closing:
        channel.close(max(0.0, deadline - time.monotonic()))


def ensure_masking() -> None:
    """Have MLflow mask the spans this package did not make before they are exported."""
    import mlflow
    from mlflow.tracing.config import get_config

    processors = get_config().span_processors
    if mask_foreign_span not in processors:
        mlflow.tracing.configure(span_processors=[*processors, mask_foreign_span])


def mask_foreign_span(span: LiveSpan) -> None:
    """Mask texts in a span that somebody else made."""
    attributes = span.attributes
    if OWN_SPAN_KEY in attributes:
        return
    for name, value in attributes.items():
        if name.startswith("mlflow.trace") or name in _LEFT_ALONE:
            continue
        masked = mask_value(value)
        if masked != value:
            span.set_attribute(name, masked)


_LEFT_ALONE = frozenset({"mlflow.spanType", "mlflow.spanLogLevel"})


def is_incident(trace: Trace) -> bool:
    """Return whether a trace must not be sampled away: something failed, was refused or waits."""
    if str(getattr(trace.info.state, "value", trace.info.state)) == "ERROR":
        return True
    try:
        row: Mapping[str, Any] = json.loads(trace.info.tags[SUMMARY_KEY])
    except (KeyError, ValueError):
        return False
    return row.get("outcome") in _INCIDENT_OUTCOMES or any(
        row.get(name) for name in _INCIDENT_COUNTS
    )


def _sample(trace: Trace, share: float) -> None:
    """Drop the spans below the root of a trace that is not in the sample."""
    if share >= 1 or SUMMARY_KEY not in trace.info.tags:
        return
    # By the id: every process, and every export of the same trace, decides alike.
    digest = hashlib.sha256(trace.info.trace_id.encode()).digest()
    if int.from_bytes(digest[:8], "big") >= share * 2**64:
        trace.data.spans = [span for span in trace.data.spans if span.parent_id is None]
        trace.info.tags["agent.sampled"] = "false"
