"""Delivering spooled traces to MLflow, so that doing it twice is doing it once.

Rules:
- MLflow keeps one trace per trace id and one span per span id: a trace that arrives again after a
  crash changes nothing. The trace goes first, its spans after it: the other way round costs MLflow
  a failed insert per trace.
- What a failure means is decided here: `LinkAwayError` for everything that another try later can
  mend (no connection, a server in trouble, a login that is refused), `RefusedError` for a trace the
  server will not have.
- A trace that comes later than `LATE_SECONDS` after its request says on which day it came
  (`DELIVERED_DAY_KEY`), because the monitoring table no longer looks that far back by time.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timezone
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from mlflow_agent_plugin.entities import Clock, utc_now

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_agent_plugin.observability.spool.queue import SpooledEvent

LATE_SECONDS = 1800.0
DELIVERED_DAY_KEY = "agent.delivered_day"
"""Trace metadata key: the UTC day on which a late trace arrived."""

_TRANSIENT_STATUS = frozenset({401, 403, 404, 408, 409, 425, 429, 503, 504})
_KNOCK_SECONDS = 3.0


class LinkAwayError(Exception):
    """The receiver cannot be reached or cannot take anything now: try again later."""


class RefusedError(Exception):
    """The receiver will not take this event.

    Attributes:
        final: Trying again cannot help.
    """

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


class Receiver(Protocol):
    """Where events go."""

    def deliver(self, events: Sequence[SpooledEvent]) -> int:
        """Take `events` in order and return how many of them arrived, from the first on.

        Raises:
            LinkAwayError: Nothing can be taken now; what arrived before may arrive again.
            RefusedError: The first of `events` was refused.
        """


def encode_trace(trace: Trace, *, workspace: str | None = None) -> bytes:
    """Return a trace as a spool's payload."""
    return json.dumps(
        {"trace": trace.to_dict(), "workspace": workspace}, separators=(",", ":")
    ).encode()


def decode_trace(payload: bytes) -> tuple[Trace, str | None]:
    """Return the trace of a payload, and its workspace.

    Raises:
        RefusedError: It is none.
    """
    from mlflow.entities import Trace

    try:
        document = json.loads(payload)
        return Trace.from_dict(document["trace"]), document.get("workspace")
    except Exception as error:
        raise RefusedError(f"is not a trace: {error}", final=True) from error


class MlflowReceiver:
    """Delivers to MLflow's tracking server.

    Args:
        tracking_uri: Which; default: the current one.
        clock: Time, for late traces.
    """

    def __init__(self, tracking_uri: str | None = None, *, clock: Clock = utc_now) -> None:
        import mlflow
        from mlflow.tracing.client import TracingClient

        uri = tracking_uri or mlflow.get_tracking_uri()
        self._client = TracingClient(uri)
        self._address = _address(uri)
        self._clock = clock

    def deliver(self, events: Sequence[SpooledEvent]) -> int:
        """As `Receiver.deliver`."""
        self._knock()
        batches: dict[tuple[str | None, str], list[tuple[Any, Trace]]] = {}
        taken = 0
        for event in events:
            try:
                trace, workspace = decode_trace(event.payload)
                with _workspace(workspace), _classified():
                    info = self._client.start_trace(self._dated(trace).info)
            except RefusedError:
                if taken:
                    break  # those before it first; it is the first of the next batch then
                raise
            batches.setdefault((workspace, trace.info.experiment_id), []).append((info, trace))
            taken += 1
        for (workspace, experiment), batch in batches.items():
            with _workspace(workspace), _classified():
                self._log_spans(experiment, batch)
        return taken

    def _dated(self, trace: Trace) -> Trace:
        now = self._clock().astimezone(timezone.utc)
        if now.timestamp() - trace.info.request_time / 1000 > LATE_SECONDS:
            trace.info.trace_metadata[DELIVERED_DAY_KEY] = now.date().isoformat()
        return trace

    def _log_spans(self, experiment: str, batch: Sequence[tuple[Any, Trace]]) -> None:
        spans = [span for _, trace in batch for span in trace.data.spans]
        try:
            if spans:
                self._client.log_spans(experiment, spans)
        except NotImplementedError as error:
            if "could not identify" in str(error):  # the server's version: it does not answer
                raise LinkAwayError(str(error)) from error
            # A store without a table of spans keeps them as an artifact, as MLflow itself does.
            for info, trace in batch:
                self._client._upload_trace_data(info, trace.data)  # noqa: SLF001 - as the exporter

    def _knock(self) -> None:
        """See whether anybody is there: MLflow's own client takes minutes to say no."""
        if self._address is None:
            return
        try:
            socket.create_connection(self._address, timeout=_KNOCK_SECONDS).close()
        except OSError as error:
            raise LinkAwayError(f"{self._address[0]}:{self._address[1]}: {error}") from error


def _address(tracking_uri: str) -> tuple[str, int] | None:
    parts = urlsplit(tracking_uri)
    # Behind a proxy the server's own address may not be reachable at all: leave it to the client.
    if parts.scheme not in ("http", "https") or not parts.hostname or getproxies():
        return None
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _workspace(workspace: str | None) -> AbstractContextManager[Any]:
    if workspace is None:
        return nullcontext()
    from mlflow.utils.workspace_context import ServerWorkspaceContext

    context: AbstractContextManager[Any] = ServerWorkspaceContext(workspace)
    return context


@contextmanager
def _classified() -> Iterator[None]:
    try:
        yield
    except (LinkAwayError, RefusedError):
        raise
    except Exception as error:
        raise classify(error) from error


def classify(error: Exception) -> LinkAwayError | RefusedError:
    """Return what a failure of MLflow's client means for the event in hand."""
    from mlflow.exceptions import MlflowException

    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not isinstance(error, MlflowException):
        return LinkAwayError(text)  # requests' and urllib3's errors, sockets
    status, code = error.get_http_status_code(), error.error_code
    if code == "RESOURCE_DOES_NOT_EXIST":
        return RefusedError(text, final=False)  # the experiment was deleted
    if status in _TRANSIENT_STATUS:
        return LinkAwayError(text)
    # 5xx: this event's fault or the server's, `Drainer` finds out; other 4xx: the event's.
    return RefusedError(text, final=status < 500)
