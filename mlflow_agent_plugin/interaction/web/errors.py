"""What a person or a client is told when something fails."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from mlflow_agent_plugin.errors import AgentError, StoreError, as_mlflow


def explain(error: Any) -> tuple[int, str]:
    """Return the HTTP status and the words for an error; inner details stay inside."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, StoreError | SQLAlchemyError):
        return 503, "The database cannot be reached now; nothing was changed."
    if isinstance(error, AgentError):
        error = as_mlflow(error)
    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return (status, str(error.message)) if status < 500 else (500, "The server failed.")
    return 500, "The server failed; its log says why."
