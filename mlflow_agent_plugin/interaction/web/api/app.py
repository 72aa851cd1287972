"""The API as an app of its own, with its OpenAPI document at ``openapi.json``.

Rules:
- The same people, permissions and gate as everywhere (`people`); no call is answered to nobody.
- Bodies are JSON and say nothing but what their schema knows. A browser that another site led here
  is refused.
- Errors have MLflow's shape: ``error_code`` and ``message``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHttpException

from mlflow_agent_plugin import __version__, registry
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import AgentError, ApprovalError
from mlflow_agent_plugin.interaction.web.api import schemas
from mlflow_agent_plugin.interaction.web.console.approvals import edit_call
from mlflow_agent_plugin.interaction.web.errors import explain
from mlflow_agent_plugin.interaction.web.people import (
    Person,
    acting,
    identify,
    may_change_model,
    may_read_model,
)
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.registry import overview
from mlflow_agent_plugin.trust import AuditKind
from mlflow_agent_plugin.trust.approval.inbox import list_inbox
from mlflow_agent_plugin.trust.audit.search import AuditQuery, search_audit

_logger = logging.getLogger(__name__)

_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    503: "TEMPORARILY_UNAVAILABLE",
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (400, 401, 403, 404, 422, 503)
}

Name = Annotated[str, Path(min_length=1, max_length=256, pattern=r"^[^\x00/]+$")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Limit = Annotated[int, Query(ge=1, le=overview.MAX_PAGE)]
Short = Annotated[str, Query(max_length=256, pattern=r"^[^\x00]*$")]
To = Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]


async def _person(request: Request) -> AsyncIterator[Person]:
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "Calls from other sites are refused.")
    person = await run_in_threadpool(identify, request)
    # Set in the request's own task: the worker thread that runs the call starts from its context.
    with acting(person):
        yield person


Caller = Annotated[Person, Depends(_person)]


def api_app() -> FastAPI:
    """Return the API."""
    app = FastAPI(
        title="mlflow-agent-plugin",
        summary="Agents, their gate, tool calls that wait, and the audit.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=_PROBLEMS,
    )
    app.include_router(_registry)
    app.include_router(_running)

    @app.get("/openapi.json", include_in_schema=False)
    def openapi(person: Caller) -> JSONResponse:
        del person
        return JSONResponse(app.openapi())

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        del request
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _problem(422, f"{where}: {first['msg']}")

    for kind in (AnyHttpException, AgentError, _mlflow_exception(), _sql_error()):
        app.add_exception_handler(kind, _failed)
    return app


def _mlflow_exception() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException  # type: ignore[no-any-return]


def _sql_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


async def _failed(request: Request, error: Exception) -> JSONResponse:
    del request
    status, text = explain(error)
    if status == 500:
        _logger.error("an API call failed", exc_info=error)
    answer = _problem(status, text, getattr(error, "error_code", None))
    if isinstance(error, AnyHttpException) and error.headers:
        answer.headers.update(error.headers)
    return answer


def _problem(status: int, text: str, code: str | None = None) -> JSONResponse:
    found = code or _CODES.get(status, "INVALID_PARAMETER_VALUE" if status < 500 else "INTERNAL")
    return JSONResponse({"error_code": str(found), "message": text}, status)


def _readable(person: Person, name: str) -> str:
    if not may_read_model(person, name):
        raise HTTPException(404, f"There is no agent {name}.")
    return name


def _changeable(person: Person, name: str) -> str:
    _readable(person, name)
    if not may_change_model(person, name):
        raise HTTPException(403, f"You may not change {name}.")
    return name


def _version(name: str, version: int) -> Any:
    found = overview.get_version(name, version, client=records().client)
    if found is None:
        raise HTTPException(404, f"{name} has no agent version {version}.")
    return found


# --- the registry --------------------------------------------------------------------------------

_registry = APIRouter(tags=["registry"])


@_registry.get("/me")
def me(person: Caller) -> schemas.Me:
    """Say who is asking."""
    return schemas.Me(**person.actor.to_dict())


@_registry.get("/agents")
def agents(
    person: Caller, contains: Short = "", offset: Offset = 0, limit: Limit = overview.PAGE
) -> schemas.Listed[schemas.Agent]:
    """List agents with what their protected slots point to."""
    found = overview.list_agents(
        contains=contains, offset=offset, limit=limit, client=records().client
    )
    rows = [schemas.Agent(**vars(row)) for row in found.rows if may_read_model(person, row.name)]
    return schemas.Listed(rows=rows, offset=found.offset, more=found.more)


@_registry.get("/agents/{name}/versions")
def versions(
    person: Caller, name: Name, offset: Offset = 0, limit: Limit = overview.PAGE
) -> schemas.Listed[schemas.Version]:
    """List an agent's versions, the newest first."""
    found = overview.list_versions(
        _readable(person, name), offset=offset, limit=limit, client=records().client
    )
    rows = [schemas.Version(**vars(row)) for row in found.rows]
    return schemas.Listed(rows=rows, offset=found.offset, more=found.more)


@_registry.get("/agents/{name}/versions/{version}")
def version(person: Caller, name: Name, version: Number) -> schemas.Version:
    """Return one version."""
    return schemas.Version(**vars(_version(_readable(person, name), version)))


@_registry.get("/agents/{name}/versions/{version}/gate")
def gate(person: Caller, name: Name, version: Number, to: To) -> dict[str, Any]:
    """Say what the gate says now about a version before a slot."""
    _version(_readable(person, name), version)
    return registry.gate_report(name, version, to=to, client=records().client).to_dict()


@_registry.get("/agents/{name}/versions/{version}/diff")
def diff(
    person: Caller,
    name: Name,
    version: Number,
    since: Annotated[int, Query(ge=1, le=2**31 - 1, description="The older version.")],
) -> dict[str, Any]:
    """Say what changed since another version, component by component."""
    for each in (since, version):
        _version(_readable(person, name), each)
    return overview.compare_versions(name, since, version, client=records().client).to_dict()


@_registry.get("/agents/{name}/history")
def slot_history(person: Caller, name: Name, to: To) -> list[dict[str, Any]]:
    """Return what a slot pointed to, the oldest first."""
    found = registry.history(_readable(person, name), to, client=records().client)
    return [entry.to_dict() for entry in found]


@_registry.get("/requests")
def requests(
    person: Caller,
    state: Annotated[
        str, Query(pattern="^(open|executed|rejected|withdrawn|superseded|expired)$")
    ] = "open",
    offset: Offset = 0,
    limit: Limit = overview.PAGE,
) -> schemas.Listed[schemas.PromotionRequest]:
    """List promotion requests, the newest first."""
    found = overview.list_requests(state=state, offset=offset, limit=limit, client=records().client)
    rows = [
        schemas.PromotionRequest(**{**vars(row), "approvals": list(row.approvals)})
        for row in found.rows
        if may_read_model(person, row.name)
    ]
    return schemas.Listed(rows=rows, offset=found.offset, more=found.more)


@_registry.post("/agents/{name}/versions/{version}/request")
def request_promotion(
    person: Caller, name: Name, version: Number, body: schemas.Ask
) -> schemas.Done:
    """Ask that a slot point to this version."""
    registry.request_promotion(
        _changeable(person, name), version, to=body.to, comment=body.comment, apply=body.apply,
        client=records().client,
    )  # fmt: skip
    return schemas.Done(result=f"requested: {name} version {version} to {body.to}")


@_registry.post("/agents/{name}/versions/{version}/approve")
def approve(person: Caller, name: Name, version: Number, body: schemas.Agree) -> schemas.Approved:
    """Approve the open request; the approval that completes it moves the slot."""
    found = registry.approve(
        _changeable(person, name), version, to=body.to, comment=body.comment,
        client=records().client,
    )  # fmt: skip
    return schemas.Approved(
        result=f"approved: {name} version {version} to {body.to}",
        applied=found.applied,
        why=found.why,
    )


@_registry.post("/agents/{name}/versions/{version}/reject")
def reject(person: Caller, name: Name, version: Number, body: schemas.Refuse) -> schemas.Done:
    """Reject the open request."""
    registry.reject(
        _changeable(person, name), version, to=body.to, reason=body.reason, client=records().client
    )
    return schemas.Done(result=f"rejected: {name} version {version} to {body.to}")


@_registry.post("/agents/{name}/versions/{version}/withdraw")
def withdraw(person: Caller, name: Name, version: Number, body: schemas.Refuse) -> schemas.Done:
    """Take the open request back."""
    registry.withdraw(
        _changeable(person, name), version, to=body.to, reason=body.reason, client=records().client
    )
    return schemas.Done(result=f"withdrawn: {name} version {version} to {body.to}")


@_registry.post("/agents/{name}/versions/{version}/promote")
def promote(person: Caller, name: Name, version: Number, body: schemas.Promote) -> schemas.Done:
    """Point a slot to this version, if the gate lets it."""
    registry.promote(_changeable(person, name), version, to=body.to, client=records().client)
    return schemas.Done(result=f"promoted: {name} {body.to} is version {version}")


@_registry.post("/agents/{name}/rollback")
def rollback(person: Caller, name: Name, body: schemas.RollBack) -> schemas.Done:
    """Point a slot back to a version that stood there by right."""
    registry.rollback(
        _changeable(person, name), to=body.to, reason=body.reason, version=body.version,
        client=records().client,
    )  # fmt: skip
    return schemas.Done(result=f"rolled back: {name} {body.to}")


# --- running agents ------------------------------------------------------------------------------

_running = APIRouter(tags=["running agents"])


@_running.get("/approvals")
def approvals(
    person: Caller,
    *,
    waiting: bool = True,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> schemas.Listed[schemas.ToolCall]:
    """List tool calls that wait for a person, the oldest first, or those that were answered."""
    found = list_inbox(
        records().runtime,
        tenant=person.tenant,
        now=utc_now(),
        roles=person.answer_roles,
        waiting=waiting,
        offset=offset,
        limit=limit,
    )
    rows = [schemas.ToolCall(**item.to_dict()) for item in found.approvals]
    return schemas.Listed(rows=rows, offset=found.offset, more=found.more)


@_running.post("/approvals/{approval_id}/approve")
def approve_call(person: Caller, approval_id: Name, body: schemas.Answer) -> schemas.ToolCall:
    """Say yes to exactly this call."""
    _visible(person, approval_id)
    answered = records().queue.approve(approval_id, person.actor, body.reason)
    return schemas.ToolCall(**answered.to_dict())


@_running.post("/approvals/{approval_id}/reject")
def reject_call(person: Caller, approval_id: Name, body: schemas.Answer) -> schemas.ToolCall:
    """Say no, with a reason."""
    _visible(person, approval_id)
    answered = records().queue.reject(approval_id, person.actor, body.reason)
    return schemas.ToolCall(**answered.to_dict())


@_running.post("/approvals/{approval_id}/edit")
def edit_waiting(person: Caller, approval_id: Name, body: schemas.Edit) -> schemas.ToolCall:
    """Say yes with other arguments; returns the approval about the edited call."""
    made = edit_call(_visible(person, approval_id), person, body.arguments, body.reason)
    return schemas.ToolCall(**made.to_dict())


@_running.post("/approvals/{approval_id}/claim")
def claim(person: Caller, approval_id: Name) -> schemas.ToolCall:
    """Reserve a waiting call for 15 minutes."""
    _visible(person, approval_id)
    return schemas.ToolCall(**records().queue.claim(approval_id, person.actor).to_dict())


@_running.post("/approvals/{approval_id}/release")
def release(person: Caller, approval_id: Name) -> schemas.ToolCall:
    """Give a reserved call back."""
    _visible(person, approval_id)
    return schemas.ToolCall(**records().queue.release(approval_id, person.actor).to_dict())


@_running.get("/approvals/{approval_id}")
def approval(person: Caller, approval_id: Name) -> schemas.ToolCall:
    """Return one tool call."""
    return schemas.ToolCall(**_visible(person, approval_id).to_dict())


def _visible(person: Person, approval_id: str) -> Any:
    try:
        found = records().queue.get(approval_id, tenant=person.tenant)
    except ApprovalError as error:
        raise HTTPException(404, "There is no such tool call.") from error
    if person.answer_roles is not None and found.role not in person.answer_roles:
        raise HTTPException(404, "There is no such tool call.")
    return found


@_running.get("/audit")
def audit(  # noqa: PLR0917 - FastAPI reads the query from the parameters
    person: Caller,
    source: Annotated[str, Query(pattern="^(agents|registry)$")] = "agents",
    kind: AuditKind | None = None,
    session_id: Short | None = None,
    request_id: Short | None = None,
    actor: Short | None = None,
    agent: Short | None = None,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> schemas.Events:
    """Search the audit, the newest first."""
    if not person.may_read_audit:
        raise HTTPException(403, "The audit is for reviewers, operations, auditors and admins.")
    store = records().runtime if source == "agents" else records().registry_store
    query = AuditQuery(
        tenant=person.tenant,
        kind=kind,
        session_id=session_id,
        request_id=request_id,
        actor=actor,
        agent=agent,
    )
    found = search_audit(store, query, before=before, limit=limit)
    rows = [schemas.Event(**event.to_dict()) for event in found.events]
    return schemas.Events(rows=rows, older=found.older)
