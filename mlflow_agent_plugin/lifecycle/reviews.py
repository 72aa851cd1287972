"""Reviewers' answers as feedback on the requests they were about, for evaluation and training.

Rules:
- The audit says what was answered: each yes, no and edit becomes one MLflow assessment on the trace
  of the request that asked, named `REVIEW_ASSESSMENT`, by a human source. An edit counts once, not
  also as the yes that comes with it.
- Never twice: an answer that stands on the trace already, whatever became of it there, is left
  alone, and of all processes that share the store one writes at a time.
- A trace that is not on the tracking server (still in a spool, deleted, never made) is counted and
  tried again by the next run.
- Reasons are masked as records are; arguments are not written.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.store.leases import LeaseTable
from mlflow_agent_plugin.trust import AuditKind
from mlflow_agent_plugin.trust.audit.search import MAX_PAGE, AuditQuery, search_audit

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditEvent

REVIEW_ASSESSMENT = "tool_call_review"
"""Name of the assessment; its value is ``approved``, ``rejected`` or ``edited``."""

_LEASE = "review-feedback"
_LEASE_SECONDS = 120.0


@dataclass(frozen=True)
class ReviewFeedback:
    """What one run did.

    Attributes:
        logged: Answers that are on their trace since this run.
        known: Answers that were there already.
        without_trace: Answers about requests whose trace is not on the tracking server.
        held_elsewhere: Another process was at it; this one did nothing.
    """

    logged: int = 0
    known: int = 0
    without_trace: int = 0
    held_elsewhere: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line."""
        if self.held_elsewhere:
            return "another process is writing reviewers' answers; nothing was done"
        return (
            f"{self.logged} answers written to their traces, {self.known} were there already, "
            f"{self.without_trace} have no trace on the tracking server"
        )


def log_reviews(
    store: Store, *, since: datetime | None = None, tenant: str | None = None
) -> ReviewFeedback:
    """Write reviewers' answers to the traces of the requests they were about.

    Args:
        store: The runtime store, with approvals and audit.
        since: Only answers given since then, with time zone; None: all.
        tenant: Only this tenant's.

    Raises:
        DataError: `since` has no time zone.
        StoreError: The audit cannot be read.
        MlflowException: The tracking server refused, or is away; run again.
    """
    if since is not None and since.tzinfo is None:
        raise DataError("has no time zone", where="since", hint="Give datetime.now(timezone.utc).")
    leases, holder = LeaseTable(store), uuid.uuid4().hex
    if not leases.acquire(_LEASE, holder, _LEASE_SECONDS):
        return ReviewFeedback(held_elsewhere=True)
    logged = known = without = 0
    try:
        for request_id, answers in _by_request(store, since, tenant).items():
            trace_id = _trace_of(store, request_id)
            there = None if trace_id is None else _answers_on(trace_id)
            if trace_id is None or there is None:
                without += len(answers)
                continue
            fresh = [answer for answer in answers if answer.event_id not in there]
            known += len(answers) - len(fresh)
            for answer in fresh:
                if not leases.acquire(_LEASE, holder, _LEASE_SECONDS):
                    # It took too long; whoever has it now goes on.
                    return ReviewFeedback(logged, known, without, held_elsewhere=True)
                _log(trace_id, answer)
                logged += 1
    finally:
        leases.release(_LEASE, holder)
    return ReviewFeedback(logged, known, without)


def _by_request(
    store: Store, since: datetime | None, tenant: str | None
) -> dict[str, list[AuditEvent]]:
    """Return people's answers by the request they were about, the oldest first."""
    found = [
        event
        for kind in (AuditKind.APPROVAL_ANSWERED, AuditKind.APPROVAL_EDITED)
        for event in _events(store, AuditQuery(kind=kind, since=since, tenant=tenant))
        if not _came_with_an_edit(event)
    ]
    answers: dict[str, list[AuditEvent]] = {}
    for event in sorted(found, key=lambda event: event.position):
        answers.setdefault(event.request_id or "", []).append(event)
    return answers


def _events(store: Store, query: AuditQuery) -> Iterator[AuditEvent]:
    before: int | None = None
    while True:
        page = search_audit(store, query, before=before, limit=MAX_PAGE)
        yield from page.events
        if page.older is None:
            return
        before = page.older


def _came_with_an_edit(event: AuditEvent) -> bool:
    # The first yes to an edited call is the editor's, given with the edit.
    body = event.body
    return bool(body.get("edited_from")) and body.get("vote") == "yes" and body.get("yeses") == 1


def _trace_of(store: Store, request_id: str) -> str | None:
    if not request_id:
        return None
    query = AuditQuery(kind=AuditKind.REQUEST_ANSWERED, request_id=request_id)
    traces = (event.body.get("trace_id") for event in _events(store, query))
    return next((str(trace) for trace in traces if trace), None)


def _answers_on(trace_id: str) -> set[str] | None:
    """Return the audit events whose answers a trace has, None if there is no such trace."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracing.client import TracingClient

    try:
        info = TracingClient().get_trace_info(trace_id)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            return None
        raise
    return {
        str((assessment.metadata or {}).get("audit_event"))
        for assessment in info.assessments or ()
        if assessment.name == REVIEW_ASSESSMENT
    }


def _log(trace_id: str, answer: AuditEvent) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    mlflow.log_feedback(
        trace_id=trace_id,
        name=REVIEW_ASSESSMENT,
        value=_value(answer),
        source=AssessmentSource(source_type="HUMAN", source_id=answer.actor or "unknown"),
        rationale=mask_text(str(answer.body.get("reason") or "")) or None,
        metadata=_metadata(answer),
    )


def _value(answer: AuditEvent) -> str:
    if answer.kind == AuditKind.APPROVAL_EDITED.value:
        return "edited"
    return "approved" if answer.body.get("vote") == "yes" else "rejected"


def _metadata(answer: AuditEvent) -> dict[str, str]:
    actor = answer.body.get("actor") or {}
    return {
        "approval_id": str(answer.body["approval_id"]),
        "call_id": str(answer.body["call_id"]),
        "tool": str(answer.body["tool"]),
        "agent_digest": answer.agent_digest or "",
        "audit_event": answer.event_id,
        "answered_at": answer.ts,
        "verified": str(bool(actor.get("verified"))).lower(),
    }
