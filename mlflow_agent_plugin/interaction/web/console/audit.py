"""The audit: searching it, one request's whole chain, and taking a copy along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.interaction.web.console.rendering import page
from mlflow_agent_plugin.interaction.web.console.views import needs, number, show
from mlflow_agent_plugin.interaction.web.people import Person, may_read_model
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.registry.overview import find_digests
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import AuditKind, RequestStory, read_request
from mlflow_agent_plugin.trust.audit.search import MAX_PAGE, AuditPage, AuditQuery, search_audit

FIELDS = ("kind", "session_id", "request_id", "actor", "agent", "since", "until")
MAX_EXPORT = 100_000


def explore(request: Request, person: Person) -> Response:
    """Show what happened, the newest first."""
    found = _found(request, person, limit=100)
    return page(
        request,
        person,
        "audit.html",
        title="Audit",
        found=found,
        kinds=[kind.value for kind in AuditKind],
        wanted={name: request.query_params.get(name, "") for name in FIELDS},
        source=_source(request)[0],
    )


def chain(request: Request, person: Person) -> Response:
    """Show one request's whole chain: who, which agent, which policies, what data, what came."""
    story = _story(request, person)
    known = find_digests({story.agent_digest or ""}, client=records().client)
    versions = [
        version
        for version in known.get(story.agent_digest or "", [])
        if may_read_model(person, version.name)
    ]
    return page(
        request,
        person,
        "chain.html",
        title="One request",
        story=story,
        events=story.events,
        versions=versions[:5],
        trace=_trace_link(story.trace_id),
    )


def export_chain(request: Request, person: Person) -> Response:
    """Return one request's whole chain as a JSON document."""
    story = _story(request, person)
    body = json.dumps(story.to_dict(), indent=2, ensure_ascii=False, default=str)
    name = "".join(c for c in story.request_id if c.isalnum() or c in "-_")[:64] or "request"
    headers = {"Content-Disposition": f'attachment; filename="request-{name}.json"'}
    return Response(body, 200, headers, "application/json")


def _story(request: Request, person: Person) -> RequestStory:
    _may_read(person)
    try:
        return read_request(
            records().runtime, str(request.path_params["request_id"]), tenant=person.tenant
        )
    except StoreError as error:
        if "no such request" in error.problem:
            raise HTTPException(404, "The audit tells of no such request.") from error
        raise


def _trace_link(trace_id: str | None) -> str | None:
    """Return where MLflow shows a trace, None if it has none."""
    from mlflow.exceptions import MlflowException

    if trace_id is None:
        return None
    try:
        found = records().client.get_trace(trace_id, display=False).info
    except MlflowException:
        return None
    return f"/#/experiments/{found.experiment_id}/traces?selectedEvaluationId={trace_id}"


def export(request: Request, person: Person) -> Response:
    """Return what was found as JSON, one event per line, the newest first."""
    _found(request, person, limit=1)  # says what is wrong before the first byte is sent
    store, query = _source(request)[1], _query(request, person)

    def lines() -> Iterator[str]:
        before, sent = None, 0
        while sent < MAX_EXPORT:
            part = search_audit(store, query, before=before, limit=MAX_PAGE)
            for event in part.events:
                yield json.dumps(event.to_dict(), default=str) + "\n"
            sent += len(part.events)
            before = part.older
            if before is None:
                return

    headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
    return StreamingResponse(lines(), 200, headers, "application/x-ndjson")


def _found(request: Request, person: Person, *, limit: int) -> AuditPage:
    before = number(request, "before") or None
    return search_audit(_source(request)[1], _query(request, person), before=before, limit=limit)


def _source(request: Request) -> tuple[str, Store]:
    wanted = request.query_params.get("source") or "agents"
    if wanted == "agents":
        return wanted, records().runtime
    if wanted == "registry":
        return wanted, records().registry_store
    raise HTTPException(400, "source is agents or registry.")


def _query(request: Request, person: Person) -> AuditQuery:
    _may_read(person)
    given = {name: request.query_params.get(name, "").strip() or None for name in FIELDS}
    kind = given["kind"]
    if kind is not None and kind not in {item.value for item in AuditKind}:
        raise HTTPException(400, "There is no such kind of event.")
    return AuditQuery(
        tenant=person.tenant,
        kind=None if kind is None else AuditKind(kind),
        session_id=given["session_id"],
        request_id=given["request_id"],
        actor=given["actor"],
        agent=given["agent"],
        since=_moment(given["since"]),
        until=_moment(given["until"]),
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise HTTPException(400, "Times look like 2026-01-31 or 2026-01-31T12:00.") from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _may_read(person: Person) -> None:
    needs(
        person.may_read_audit,
        "The audit is for reviewers, operations, auditors and administrators.",
    )


ROUTES: list[Route] = [
    show("/audit", explore),
    show("/audit/export", export),
    show("/audit/requests/{request_id}", chain),
    show("/audit/requests/{request_id}/export", export_chain),
]
