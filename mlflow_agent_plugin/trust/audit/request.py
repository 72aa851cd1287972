"""One request's whole story: who asked, what was decided and by which rules, what came of it.

Rules:
- A request that paused for an approval ends in a later one: the events of its calls are part of the
  story whichever request they happened in.
- Nothing is interpreted that is not on record. Whether the record was tampered with is for
  `verify_audit` to say, over the whole audit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_events
from mlflow_agent_plugin.trust.audit.chain import AuditEvent, AuditKind
from mlflow_agent_plugin.trust.audit.rows import read_event

_ANSWERS = frozenset({AuditKind.APPROVAL_ANSWERED.value, AuditKind.APPROVAL_EDITED.value})


@dataclass(frozen=True)
class CallStory:
    """What became of one tool call.

    Attributes:
        decisions: Every decision about it, in order: answer, policies, who would have to approve.
        answers: What reviewers said, in order.
        started: Whether it was begun.
        status: How it ended; None if no end is on record.
    """

    call_id: str
    tool: str
    decisions: tuple[Mapping[str, Any], ...] = ()
    answers: tuple[Mapping[str, Any], ...] = ()
    started: bool = False
    status: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            **vars(self),
            "decisions": [dict(item) for item in self.decisions],
            "answers": [dict(item) for item in self.answers],
        }


@dataclass(frozen=True)
class RequestStory:
    """What is on record about one request.

    Attributes:
        actor: On whose behalf: user, tenant, roles, verified.
        calls: Its tool calls, in the order they were first decided.
        policies: Every policy that determined a decision.
        data_classes: Classes of data that were seen, where the record says so.
        outcome: How the request itself was answered; None if it never was.
        continued_in: Later requests in which its calls went on.
        events: Everything, in the order it was written.
    """

    request_id: str
    session_id: str | None
    actor: Mapping[str, Any]
    agent: str | None
    agent_digest: str | None
    received_at: str | None
    answered_at: str | None
    outcome: str | None
    trace_id: str | None
    calls: tuple[CallStory, ...]
    policies: tuple[str, ...]
    data_classes: tuple[str, ...]
    continued_in: Mapping[str, str | None] = field(default_factory=dict)
    events: tuple[AuditEvent, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            **vars(self),
            "actor": dict(self.actor),
            "calls": [call.to_dict() for call in self.calls],
            "policies": list(self.policies),
            "data_classes": list(self.data_classes),
            "continued_in": dict(self.continued_in),
            "events": [event.to_dict() for event in self.events],
        }

    def _repr_html_(self) -> str:
        """Show the story in a notebook: facts, each call with its decisions, every event."""
        from mlflow_agent_plugin.trust.audit.notebook import story_html  # noqa: PLC0415 - a view

        return story_html(self)

    def to_text(self) -> str:
        """Return the story in lines for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        roles = ", ".join(self.actor.get("roles") or ()) or "no role"
        known = "verified" if self.actor.get("verified") else "not verified"
        yield f"request {self.request_id} in session {self.session_id}"
        yield f"  asked by   {self.actor.get('user')}@{self.actor.get('tenant')} ({roles}; {known})"
        yield f"  agent      {self.agent} {self.agent_digest}"
        yield f"  received   {self.received_at}, answered {self.answered_at or 'never'}"
        yield f"  outcome    {self.outcome or 'unknown'}"
        yield f"  policies   {', '.join(self.policies) or 'none'}"
        yield f"  data       {', '.join(self.data_classes) or 'no class on record'}"
        for call in self.calls:
            yield f"  call {call.call_id}: {call.tool}"
            for decision in call.decisions:
                yield f"    {_decision_line(decision)}"
            for answer in call.answers:
                yield f"    {_answer_line(answer)}"
            end = call.status or ("begun, no end on record" if call.started else "not begun")
            yield f"    {end}{'' if call.error is None else f': {call.error}'}"
        for request_id, outcome in self.continued_in.items():
            yield f"  went on in request {request_id}: {outcome or 'not answered'}"


def read_request(store: Store, request_id: str, *, tenant: str | None = None) -> RequestStory:
    """Return the story of one request.

    Args:
        store: The runtime store.
        request_id: The request's id.
        tenant: See only this tenant's; None: of any, for operators.

    Raises:
        StoreError: No such request is on record (for this tenant), or the store cannot be read.
    """
    table = audit_events
    with store.read() as connection:
        rows = connection.execute(
            select(table).where(table.c.request_id == request_id).order_by(table.c.position)
        ).all()
        own = [read_event(row) for row in rows]
        if tenant is not None:
            own = [event for event in own if event.tenant == tenant]
        if not own:
            raise StoreError("no such request is on record", where=f"request {request_id}")
        calls = {event.body["call_id"] for event in own if event.body.get("call_id")}
        session = next((event.session_id for event in own if event.session_id), None)
        later: list[AuditEvent] = []
        if session is not None:
            rows = connection.execute(
                select(table)
                .where(table.c.session_id == session, table.c.position > own[0].position)
                .order_by(table.c.position)
            ).all()
            others = [read_event(row) for row in rows if row.request_id != request_id]
            went_on = {e.request_id for e in others if e.body.get("call_id") in calls}
            later = [
                event
                for event in others
                if event.request_id in went_on
                and (event.body.get("call_id") in calls or "call_id" not in event.body)
            ]
    return _story(request_id, own, later)


def _story(request_id: str, own: Sequence[AuditEvent], later: Sequence[AuditEvent]) -> RequestStory:
    events = sorted([*own, *later], key=lambda event: event.position)
    received = next((e for e in own if e.kind == AuditKind.REQUEST_RECEIVED.value), None)
    answered = next((e for e in own if e.kind == AuditKind.REQUEST_ANSWERED.value), None)
    # A reviewer's answer stands under the request too: whoever asked is not he.
    asked = received or next((e for e in own if e.kind not in _ANSWERS), own[0])
    actor = asked.body.get("actor") or {"user": asked.actor, "tenant": asked.tenant}
    calls = tuple(_calls([e for e in events if e.body.get("call_id")]))
    outcomes = {
        event.request_id: event.body.get("outcome")
        for event in later
        if event.kind == AuditKind.REQUEST_ANSWERED.value
    }
    return RequestStory(
        request_id=request_id,
        session_id=asked.session_id,
        actor=actor,
        agent=asked.agent,
        agent_digest=asked.agent_digest,
        received_at=None if received is None else received.ts,
        answered_at=None if answered is None else answered.ts,
        outcome=None if answered is None else answered.body.get("outcome"),
        trace_id=None if answered is None else answered.body.get("trace_id"),
        calls=calls,
        policies=tuple(
            sorted({p for c in calls for d in c.decisions for p in d.get("policy_ids") or ()})
        ),
        data_classes=tuple(
            sorted({str(name) for e in events for name in e.body.get("data_classes") or ()})
        ),
        continued_in={
            str(name): outcomes.get(name)
            for name in dict.fromkeys(e.request_id for e in later if e.request_id is not None)
        },
        events=tuple(events),
    )


def _calls(events: Sequence[AuditEvent]) -> Iterator[CallStory]:
    for call_id in dict.fromkeys(str(event.body["call_id"]) for event in events):
        own = [event for event in events if event.body["call_id"] == call_id]
        ends = [event for event in own if event.kind == AuditKind.TOOL_CALL_FINISHED.value]
        yield CallStory(
            call_id=call_id,
            tool=str(own[0].body.get("tool")),
            decisions=tuple(
                {
                    "at": event.ts,
                    **(event.body.get("decision") or {}),
                    "arguments": event.body.get("arguments"),
                    "edited": event.body.get("edited") or [],
                }
                for event in own
                if event.kind == AuditKind.TOOL_CALL_DECIDED.value
            ),
            answers=tuple(_answer(event) for event in own if event.kind in _ANSWERS),
            started=any(event.starts_tool for event in own),
            status=ends[-1].body.get("status") if ends else None,
            error=ends[-1].body.get("error") if ends else None,
        )


def _answer(event: AuditEvent) -> dict[str, Any]:
    said = event.body.get("actor") or {}
    names = ("approval_id", "vote", "state", "yeses", "quorum", "reason", "replaced_by")
    return {
        "at": event.ts,
        "what": "edited" if event.kind == AuditKind.APPROVAL_EDITED.value else "answered",
        "by": event.actor,
        "verified": said.get("verified"),
        **{name: event.body[name] for name in names if event.body.get(name) is not None},
        **({"edited": event.body["edited_names"]} if "edited_names" in event.body else {}),
    }


def _decision_line(decision: Mapping[str, Any]) -> str:
    ids = ", ".join(decision.get("policy_ids") or ()) or "no policy"
    edited = f" (edited: {', '.join(decision['edited'])})" if decision["edited"] else ""
    return f"{decision.get('value')} by {ids}: {decision.get('arguments')}{edited}"


def _answer_line(answer: Mapping[str, Any]) -> str:
    known = "verified" if answer["verified"] else "not verified"
    reason = f": {answer['reason']}" if answer.get("reason") else ""
    if answer["what"] == "edited":
        return f"{answer['by']} ({known}) edited {', '.join(answer['edited'])}{reason}"
    count = f"{answer.get('yeses')} of {answer.get('quorum')}"
    return f"{answer['by']} ({known}) said {answer.get('vote')}, {count}{reason}"
