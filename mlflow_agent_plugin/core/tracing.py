"""MLflow tracing around a turn, switched off where it would only cost (evaluation).

Rules:
- Spans carry ids, decisions, sizes and masked texts; argument values and outputs go through the
  same mask as the monitoring table.
- A tracking server that is away costs the trace, never the turn: the audit in the runtime store is
  the record that must not be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from mlflow_agent_plugin.observability.masking import mask_text
from mlflow_agent_plugin.observability.schema import SUMMARY_KEY, summary_from_row

_logger = logging.getLogger(__name__)


class Span(Protocol):
    """The part of MLflow's live span that a turn uses."""

    def set_outputs(self, outputs: Any) -> None:
        """Set what the span's work returned."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""


class _NoSpan:
    trace_id: str | None = None

    def set_outputs(self, outputs: Any) -> None:
        """Do nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing."""


class Tracer:
    """Opens spans when tracing is on, does nothing otherwise."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def span(
        self, name: str, span_type: str, inputs: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Any]:
        """Open a span around a step; inputs are masked."""
        if not self.enabled:
            return nullcontext(_NoSpan())
        return _mlflow_span(name, span_type, inputs)

    def summarise(self, row: Mapping[str, Any], *, session_id: str) -> None:
        """Attach the request's monitoring row to the current trace."""
        if not self.enabled:
            return
        import mlflow

        try:
            mlflow.update_current_trace(
                metadata={SUMMARY_KEY: summary_from_row(row), "mlflow.trace.session": session_id}
            )
        except Exception:
            _logger.warning("The trace of a request got no summary", exc_info=True)


@contextmanager
def _mlflow_span(name: str, span_type: str, inputs: Mapping[str, Any] | None) -> Iterator[Any]:
    import mlflow

    with mlflow.start_span(name=name, span_type=span_type) as span:
        if inputs is not None:
            span.set_inputs(mask_value(dict(inputs)))
        yield span


def mask_value(value: Any) -> Any:
    """Return `value` with every text in it masked; the shape stays."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: mask_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_value(part) for part in value]
    return value
