"""``POST /v1/feedback``: what users and staff say about an answer, kept on its trace by MLflow.

Rules:
- Only authenticated people, and only about requests of their own tenant; another tenant's answer
  looks like one that does not exist.
- Anyone may give a thumb, a comment and the answer it should have been. The right intent is what
  retraining learns from: that takes the labeller role, so that no customer teaches the agent.
- One thumb and one correction per person and answer; the same again changes nothing.
- Each costs calls to the tracking server: a person gives `PER_MINUTE` a minute, in each worker,
  then gets 429. Labellers work through lists and may go on.
- Texts are masked; who said it stands there as the pseudonym the monitoring table uses.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from limits.storage import MemoryStorage
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlflow_agent_plugin.core.responses import trace_of_response
from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.errors import IdentityError, RequestError
from mlflow_agent_plugin.interaction.serve.http import HttpError
from mlflow_agent_plugin.lifecycle.feedback import (
    MAX_ANSWER_CHARS,
    MAX_COMMENT_CHARS,
    MAX_INTENT_CHARS,
    correct_request,
    give_thumb,
)
from mlflow_agent_plugin.observability.schema import hash_user
from mlflow_agent_plugin.trust.quotas.windows import Full, WindowCounters

_logger = logging.getLogger(__name__)

PER_MINUTE = 30
"""Pieces of feedback one person may give a minute."""

_RETRY_SECONDS = 30.0


class Said(BaseModel):
    """The body.

    Attributes:
        trace_id: Of the answer: ``custom_outputs.trace_id``.
        response_id: The answer's ``id``, in place of `trace_id`.
        thumb: Was it good?
        intent: What the request really was.
        answer: What the answer should have been.
        comment: Why.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    trace_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    response_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    thumb: Literal["up", "down"] | None = None
    intent: Annotated[str, Field(min_length=1, max_length=MAX_INTENT_CHARS)] | None = None
    answer: Annotated[str, Field(min_length=1, max_length=MAX_ANSWER_CHARS)] | None = None
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARS)] | None = None


class FeedbackDesk:
    """Takes feedback.

    Args:
        role: Who may say what a request really was.
        body: Reads the JSON body of a request.
    """

    def __init__(self, *, role: str, body: Callable[..., Awaitable[Any]]) -> None:
        self._role = role
        self._body = body
        self._counters = WindowCounters(MemoryStorage(), utc_now)

    async def take(self, actor: Actor, request: Request) -> Response:
        """Keep what `actor` says."""
        if not actor.verified:
            raise IdentityError("feedback takes a credential")
        said = _parse(await self._body(request))
        if said.intent is not None and self._role not in actor.roles:
            raise HttpError(
                403, f"intent: this takes the role {self._role}", code="permission_denied"
            )
        trace_id = said.trace_id or trace_of_response(said.response_id or "")
        if trace_id is None:
            raise RequestError(
                "is not the id of an answer", where="response_id", hint="Give its trace_id."
            )
        self._count(actor)
        await run_in_threadpool(_keep, actor, trace_id, said)
        return JSONResponse({"trace_id": trace_id, "kept": True})

    def _count(self, actor: Actor) -> None:
        if self._role in actor.roles:
            return
        key = f"feedback:{hash_user(actor)}"
        taken = self._counters.take(key, 1, limit=PER_MINUTE, every_seconds=60)
        if isinstance(taken, Full):
            raise HttpError(
                429,
                f"that is more than {PER_MINUTE} pieces of feedback in a minute; go on later",
                code="rate_limit_exceeded",
                retry_after=taken.retry_after_seconds,
            )


def _parse(payload: Any) -> Said:
    try:
        said = Said.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "body"
        raise RequestError(first["msg"], where=where) from None
    if (said.trace_id is None) == (said.response_id is None):
        raise RequestError("give either trace_id or response_id", where="body")
    for name in ("intent", "answer"):
        text = getattr(said, name)
        if text is not None and not text.strip():
            raise RequestError("is empty", where=name)
    if said.thumb is None and said.intent is None and said.answer is None:
        raise RequestError("give thumb, intent or answer", where="body")
    return said


def _keep(actor: Actor, trace_id: str, said: Said) -> None:
    from mlflow.exceptions import MlflowException

    by = hash_user(actor)
    try:
        if said.thumb is not None:
            give_thumb(
                trace_id,
                up=said.thumb == "up",
                by=by,
                comment=said.comment,
                tenant=actor.tenant,
            )
        if said.intent is not None or said.answer is not None:
            correct_request(
                trace_id,
                by=by,
                intent=said.intent,
                answer=said.answer,
                comment=said.comment,
                tenant=actor.tenant,
            )
    except (MlflowException, OSError) as error:
        _logger.warning("feedback could not be kept", exc_info=error)
        raise HttpError(
            503,
            "feedback cannot be kept now; send it again later",
            code="unavailable",
            retry_after=_RETRY_SECONDS,
        ) from None
