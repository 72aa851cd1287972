"""What clients are told when something goes wrong: OpenAI's error objects, never a stack trace."""

from __future__ import annotations

import logging
from typing import Any

from mlflow_agent_plugin.errors import AgentError, ConfigError, IdentityError, as_mlflow

_logger = logging.getLogger(__name__)

_WORDS = {401: "authentication_error", 403: "permission_error", 404: "not_found", 429: "rate_limit"}


class HttpError(Exception):
    """An answer that ends a request."""

    def __init__(
        self, status: int, message: str, *, code: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after = retry_after


def told(error: Exception) -> HttpError:
    """Return what the client is told."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, IdentityError):
        return HttpError(401, str(error), code="unauthenticated")
    if isinstance(error, ConfigError):
        _logger.error("the front end is configured wrongly", exc_info=error)
        return HttpError(503, "the server cannot check credentials now", code="unavailable")
    if isinstance(error, AgentError):
        shown = as_mlflow(error)
        return HttpError(
            int(shown.get_http_status_code()),
            str(error),
            code=str(shown.error_code).lower(),
            retry_after=getattr(error, "retry_after_seconds", None),
        )
    _logger.error("a request failed", exc_info=error)
    return HttpError(500, "the agent failed; the server's log says why", code="internal_error")


def error_body(error: HttpError) -> dict[str, Any]:
    """Return the body of an error."""
    other = "invalid_request_error" if error.status < 500 else "server_error"
    kind = _WORDS.get(error.status, other)
    return {"error": {"message": error.message, "type": kind, "code": error.code, "param": None}}


def error_headers(error: HttpError) -> dict[str, str]:
    """Return the headers of an error."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return headers
