"""What a turn leaves behind: MLflow spans, the steps of the monitoring table, live metrics.

Rules:
- Spans carry ids, decisions, sizes and masked texts; argument values and outputs go through the
  same mask as the monitoring table. Of an error only its kind stands in a span: its message may
  hold anything.
- A tracking server that is away costs nothing: the trace is on disk when the turn ends, and goes
  from there (`observability.spool`).
- Spans and audit events share request, session, call and approval ids.
- Where nobody looks (evaluation) tracing is off, and a turn pays nothing for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.turn import CURRENT_TURN
from mlflow_agent_plugin.entities import CallStatus
from mlflow_agent_plugin.entities.sensitive import mask_value
from mlflow_agent_plugin.observability.schema import SUMMARY_KEY, summary_from_row
from mlflow_agent_plugin.observability.steps import STEPS_KEY, Step, summary_from_steps

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import SpoolChannel

__all__ = ["Span", "Tracer", "keep_step", "mask_value"]

_logger = logging.getLogger(__name__)

_KINDS = {"TOOL": "tool", "CHAT_MODEL": "model", "RETRIEVER": "retrieval"}
_OF_STEP = {
    "agent.status": "status",
    "agent.decision": "decision",
    "agent.error": "error",
    "agent.call_id": "call_id",
    "agent.input_tokens": "input_tokens",
    "agent.output_tokens": "output_tokens",
    "agent.cost_usd": "cost_usd",
}
"""Span attribute to the field of `Step` it fills."""

_OF_REQUEST = {
    "agent": "agent.name",
    "agent_digest": "agent.digest",
    "version": "agent.version",
    "tenant": "agent.tenant",
    "session_id": "agent.session_id",
    "outcome": "agent.outcome",
    "intent": "agent.intent",
    "confidence": "agent.confidence",
    "input_tokens": "agent.input_tokens",
    "output_tokens": "agent.output_tokens",
    "cost_usd": "agent.cost_usd",
}
"""Column of the monitoring row to the attribute of the request's span."""


class Span:
    """One step under way; without tracing it only measures.

    Args:
        live: MLflow's span, None without tracing.
        step: Record for the table of steps, None for spans that are no step.
    """

    def __init__(self, live: Any, step: Step | None) -> None:
        self._live = live
        self.step = step

    @property
    def trace_id(self) -> str | None:
        """Id of the trace, None without tracing."""
        return None if self._live is None else str(self._live.trace_id)

    def set_outputs(self, outputs: Any) -> None:
        """Set what the span's work returned; masked by the caller."""
        if self._live is not None:
            self._live.set_outputs(outputs)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; those of a step go into its record too."""
        if self.step is not None and key in _OF_STEP:
            setattr(self.step, _OF_STEP[key], value or None if key != "agent.status" else value)
        if self._live is not None:
            self._live.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Note something that happened within the span."""
        if self._live is not None:
            from mlflow.entities import SpanEvent

            self._live.add_event(SpanEvent(name, attributes=dict(attributes)))

    def end(self) -> None:
        """End a span that was not opened with `Tracer.span`."""
        if self._live is not None:
            self._live.end()

    def fail(self, error: BaseException) -> None:
        """Note that the work failed; a pause for an approval is no failure."""
        if _is_pause(error):
            self.set_attribute("agent.status", CallStatus.WAITING_APPROVAL.value)
            return
        self.set_attribute("agent.status", CallStatus.FAILED.value)
        self.set_attribute("agent.error", type(error).__name__)
        if self._live is not None:
            self._live.set_status("ERROR")


_NO_SPAN: AbstractContextManager[Span, bool | None] = nullcontext(Span(None, None))
"""It keeps nothing, so one serves all."""


class Tracer:
    """Opens spans when tracing is on, measures when metrics are, does nothing otherwise.

    Args:
        enabled: Write MLflow traces.
        settings: Where the spool and the metrics endpoint are; None for neither.

    Attributes:
        mask: Makes a JSON value fit to be traced; the runtime puts the agent's own rules here.
    """

    def __init__(self, *, enabled: bool, settings: Settings | None = None) -> None:
        self.enabled = enabled
        self.mask: Callable[[Any], Any] = mask_value
        self._settings = settings
        self._channel: SpoolChannel | None = None
        self._metrics = _start_metrics(settings)
        self.measuring = enabled or self._metrics
        if enabled:
            self._prepare()

    def check(self) -> None:
        """Refuse a turn whose telemetry could not be kept, where the settings ask for that.

        Raises:
            SpoolError: The spool is full, and set to stop the agent.
        """
        if self._channel is not None:
            self._channel.check()

    def span(
        self, name: str, span_type: str, inputs: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Span, bool | None]:
        """Open a span around a step; inputs are masked."""
        return self._open_span(name, span_type, inputs) if self.measuring else _NO_SPAN

    @contextmanager
    def _open_span(
        self, name: str, span_type: str, inputs: Mapping[str, Any] | None
    ) -> Iterator[Span]:
        if span_type == "AGENT":
            self._prepare()
        kind = _KINDS.get(span_type)
        step = None if kind is None else Step(kind=kind, name=name.removeprefix(f"{kind} "))
        begun = time.perf_counter()
        failure: BaseException | None = None
        shown = self.mask(dict(inputs)) if inputs is not None and self.enabled else None
        with _live_span(name, span_type, shown, enabled=self.enabled) as live:
            span = Span(live, step)
            try:
                yield span
            except BaseException as error:  # noqa: BLE001 - raised again below
                # Not through MLflow's own span: it would keep the message and the stack trace.
                span.fail(error)
                failure = error
            if step is not None:
                keep_step(step, begun)
        if failure is not None:
            raise failure

    def current(self) -> Span | None:
        """Return the span this code runs in, to add events to."""
        if not self.enabled:
            return None
        import mlflow

        live = mlflow.get_current_active_span()
        return None if live is None else Span(live, None)

    def callbacks(self) -> list[BaseCallbackHandler]:
        """Return what a graph needs in its config so that model calls become spans."""
        if not self.measuring:
            return []
        from mlflow_agent_plugin.core.observed import model_spans

        return [model_spans(self)]

    def summarise(
        self,
        row: Mapping[str, Any],
        *,
        session_id: str,
        steps: Sequence[Step] = (),
        answers: Iterable[tuple[str, float]] = (),
    ) -> None:
        """Attach the request's monitoring row and steps to the current trace, and count them."""
        if self._metrics:
            from mlflow_agent_plugin.observability.live import observe

            observe(row, steps, answers)
        if not self.enabled:
            return
        import mlflow

        try:
            live = mlflow.get_current_active_span()
            if live is not None:
                found = {name: row.get(column) for column, name in _OF_REQUEST.items()}
                live.set_attributes({name: v for name, v in found.items() if v is not None})
            mlflow.update_current_trace(
                tags={
                    SUMMARY_KEY: summary_from_row(row),
                    STEPS_KEY: summary_from_steps(steps),
                },
                metadata={
                    "mlflow.trace.session": session_id,
                    "mlflow.trace.user": str(row["user_hash"]),
                },
            )
        except Exception:
            _logger.warning("The trace of a request got no summary", exc_info=True)

    def _prepare(self) -> None:
        """See that traces go through the mask and the spool, whatever was set meanwhile."""
        if not self.enabled or self._settings is None:
            return
        from mlflow_agent_plugin.observability.spool import ensure_masking, ensure_spool

        ensure_masking()
        if self._settings.spool:
            channel = ensure_spool(self._settings)
            if self._metrics and channel is not None and channel is not self._channel:
                from mlflow_agent_plugin.observability.live import watch_spool

                watch_spool(channel.state)
            self._channel = channel


def _start_metrics(settings: Settings | None) -> bool:
    if settings is None or not settings.metrics_port:
        return False
    from mlflow_agent_plugin.observability.live import serve_metrics

    serve_metrics(settings.metrics_port, settings.metrics_host)
    return True


@contextmanager
def _live_span(
    name: str, span_type: str, inputs: Mapping[str, Any] | None, *, enabled: bool
) -> Iterator[Any]:
    if not enabled:
        yield None
        return
    import mlflow

    from mlflow_agent_plugin.observability.spool import OWN_SPAN_KEY

    with mlflow.start_span(name=name, span_type=span_type, attributes={OWN_SPAN_KEY: True}) as live:
        if inputs is not None:
            live.set_inputs(dict(inputs))
        yield live


def keep_step(step: Step, begun: float) -> None:
    """Put a finished step into the current turn's record."""
    turn = CURRENT_TURN.get()
    step.seconds = time.perf_counter() - begun
    if turn is not None:
        step.started = begun - turn.begun
        turn.keep_step(step)


def _is_pause(error: BaseException) -> bool:
    from langgraph.errors import GraphBubbleUp

    return isinstance(error, GraphBubbleUp)
