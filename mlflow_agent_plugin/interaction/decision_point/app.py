"""HTTP around the decision service: sizes, times, one JSON answer for every request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from mlflow_agent_plugin.interaction.decision_point.service import DecisionService, ServiceError

MAX_BODY_BYTES = 512 * 1024
BODY_TIMEOUT_SECONDS = 10.0

_logger = logging.getLogger(__name__)


def create_app(service: DecisionService) -> FastAPI:
    """Return the application that answers with `service`."""
    app = FastAPI(title="mlflow-agents policy", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return service.about()

    @app.post("/v1/decide")
    async def decide(request: Request) -> JSONResponse:
        return await _answer(request, service.decide)

    @app.post("/v1/explain")
    async def explain(request: Request) -> JSONResponse:
        return await _answer(request, service.explain)

    return app


async def _answer(
    request: Request, answer: Callable[[bytes, str | None], dict[str, Any]]
) -> JSONResponse:
    try:
        body = await asyncio.wait_for(_read(request), BODY_TIMEOUT_SECONDS)
        found = await run_in_threadpool(answer, body, request.headers.get("authorization"))
        return JSONResponse(found)
    except ServiceError as error:
        return _refusal(error)
    except asyncio.TimeoutError:
        return _refusal(ServiceError(408, "too_slow", "the body did not arrive in time"))
    except Exception:
        _logger.exception("a request got no decision")
        return _refusal(ServiceError(500, "failed", "no decision could be made"))


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ServiceError(413, "too_large", f"at most {MAX_BODY_BYTES} bytes are read")
    return bytes(body)


def _refusal(error: ServiceError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None  # noqa: PLR2004
    return JSONResponse(error.to_dict(), status_code=error.status, headers=headers)
