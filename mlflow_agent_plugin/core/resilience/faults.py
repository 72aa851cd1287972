"""What an exception of a tool says about the service behind it. Pure.

Rules:
- `RATE_LIMITED`: the service refused for now, and nothing happened there: a `ToolRateLimitedError`,
  or an HTTP 429 of urllib, requests, httpx, botocore or an SDK built on them.
- `OUTAGE`: the service is out of order: a time-out, a broken connection, an HTTP 5xx, a
  `ToolUnavailableError`. Only these open a circuit breaker.
- `FAILURE`: anything else; the service is there, and said no.
- After an outage it is unknown whether a call took effect, unless the tool itself says that it did
  not (`ToolUnavailableError`).
- Errors are recognised by what they carry (status, headers), not by their class: no HTTP library is
  imported for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from mlflow_agent_plugin.errors import ToolRateLimitedError, ToolUnavailableError

LONGEST_WAIT_SECONDS = 3600.0
"""A service that asks for more is asked again after this."""

_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500

_OF_FILES = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_TRANSPORT = (
    ("httpx", "TransportError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("openai", "APIConnectionError"),
    ("sqlalchemy.exc", "OperationalError"),
    ("sqlalchemy.exc", "InterfaceError"),
)


class FaultKind(str, Enum):
    """What went wrong."""

    RATE_LIMITED = "rate_limited"
    OUTAGE = "outage"
    FAILURE = "failure"


@dataclass(frozen=True)
class Fault:
    """An exception of a tool, understood.

    Attributes:
        retry_after_seconds: What the service itself asked for, None if it did not.
        is_uncertain: Nobody knows whether the call took effect.
    """

    kind: FaultKind
    retry_after_seconds: float | None = None
    is_uncertain: bool = False


def classify(error: BaseException, *, now: datetime) -> Fault:
    """Return what `error` says; `now` turns the date of a ``Retry-After`` into seconds."""
    if isinstance(error, ToolRateLimitedError):
        return Fault(FaultKind.RATE_LIMITED, _bounded(error.retry_after_seconds))
    if isinstance(error, ToolUnavailableError):
        return Fault(FaultKind.OUTAGE, _bounded(error.retry_after_seconds))
    status, headers = _http(error)
    if status is not None:
        asked = parse_retry_after(headers.get("retry-after"), now=now)
        if status == _TOO_MANY_REQUESTS:
            return Fault(FaultKind.RATE_LIMITED, asked)
        if status >= _SERVER_ERROR or status == _REQUEST_TIMEOUT:
            return Fault(FaultKind.OUTAGE, asked, is_uncertain=True)
        return Fault(FaultKind.FAILURE)
    if isinstance(error, (TimeoutError, OSError)) or _is_transport(error):
        own = isinstance(error, (*_OF_FILES, PermissionError))
        kind = FaultKind.FAILURE if own else FaultKind.OUTAGE
        return Fault(kind, is_uncertain=True)
    return Fault(FaultKind.FAILURE)


def parse_retry_after(value: Any, *, now: datetime) -> float | None:
    """Return the seconds a ``Retry-After`` asks for (a number or an HTTP date), None if neither."""
    if value is None:
        return None
    try:
        return _bounded(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        until = parsedate_to_datetime(str(value))
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        return _bounded((until - now).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _bounded(seconds: Any) -> float | None:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or math.isnan(seconds):
        return None
    return float(min(max(seconds, 0), LONGEST_WAIT_SECONDS))


def _http(error: BaseException) -> tuple[int | None, Mapping[str, Any]]:
    response = _get(error, "response")
    if isinstance(response, Mapping):  # botocore
        about = response.get("ResponseMetadata")
        about = about if isinstance(about, Mapping) else {}
        return _status(about.get("HTTPStatusCode")), _lower(about.get("HTTPHeaders"))
    for source in (response, error):
        for name in ("status_code", "code", "status"):
            status = _status(_get(source, name))
            if status is not None:
                return status, _lower(_get(source, "headers"))
    return None, {}


def _get(source: Any, name: str) -> Any:
    try:
        return getattr(source, name, None)
    except Exception:  # a property of a foreign class may raise anything
        return None


def _status(value: Any) -> int | None:
    usable = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if usable and 100 <= value <= 599 else None


def _lower(headers: Any) -> dict[str, Any]:
    try:
        return {str(name).lower(): value for name, value in headers.items()}
    except Exception:
        return {}


def _is_transport(error: BaseException) -> bool:
    for module, name in _TRANSPORT:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return True
    return False
