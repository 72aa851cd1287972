"""Finding what went wrong, or was stopped from going wrong, in a large audit.

Rules:
- A finding is a kind of event with a certain value in its body. The body is text in the store: rows
  are picked by the exact spelling of that value, then read and judged by the value itself, so that
  an argument that quotes the spelling is no finding.
- Pages as `search`: the newest first, after a position, over no more than `MAX_SCANNED` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.trust.audit.chain import AuditEvent, AuditKind
from mlflow_agent_plugin.trust.audit.search import AuditPage, AuditQuery, search_audit


class Finding(str, Enum):
    """What is looked for.

    ``denial``: the policies refused a call. ``override``: a person rejected or changed what the
    agent wanted. ``escalation``: the agent handed over to a person. ``failure``: a request, or a
    call, did not end well. ``stop``: an operator stopped or started something. ``break_glass``:
    somebody went past a rule, with his name and reason.
    """

    DENIAL = "denial"
    OVERRIDE = "override"
    ESCALATION = "escalation"
    FAILURE = "failure"
    STOP = "stop"
    BREAK_GLASS = "break_glass"


@dataclass(frozen=True)
class _Mark:
    """What makes an event a finding: its kind, a spelling in its text, and the value itself."""

    kind: AuditKind
    spelled: tuple[str, ...] = ()
    holds: Callable[[Mapping[str, Any]], bool] = lambda _body: True


def _decided(body: Mapping[str, Any]) -> Any:
    decision = body.get("decision")
    return decision.get("value") if isinstance(decision, Mapping) else decision


_MARKS: dict[Finding, tuple[_Mark, ...]] = {
    Finding.DENIAL: (
        _Mark(
            AuditKind.TOOL_CALL_DECIDED,
            ('"value":"deny"', '"decision":"deny"'),
            lambda body: _decided(body) == "deny",
        ),
    ),
    Finding.OVERRIDE: (
        _Mark(AuditKind.APPROVAL_ANSWERED, ('"vote":"no"',), lambda body: body.get("vote") == "no"),
        _Mark(AuditKind.APPROVAL_EDITED),
    ),
    Finding.ESCALATION: (
        _Mark(
            AuditKind.REQUEST_ANSWERED,
            ('"outcome":"escalated"',),
            lambda body: body.get("outcome") == "escalated",
        ),
    ),
    Finding.FAILURE: (
        _Mark(
            AuditKind.REQUEST_ANSWERED,
            ('"outcome":"failed"',),
            lambda body: body.get("outcome") == "failed",
        ),
        _Mark(
            AuditKind.TOOL_CALL_FINISHED,
            ('"status":"failed"', '"status":"in_doubt"'),
            lambda body: body.get("status") in ("failed", "in_doubt"),
        ),
    ),
    Finding.STOP: (_Mark(AuditKind.SWITCH_STOPPED), _Mark(AuditKind.SWITCH_STARTED)),
    Finding.BREAK_GLASS: (_Mark(AuditKind.UNSAFE_OVERRIDE),),
}


def find(
    store: Store,
    finding: Finding,
    *,
    tenant: str | None,
    agent: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> AuditPage:
    """Return a page of findings, the newest first.

    Args:
        store: The runtime store, or the registry's.
        finding: What to look for.
        tenant: Of this tenant; None: of all, for operators.
        agent: Of this agent.
        before: Only events before this position.
        limit: How many, at most; fewer may come while `older` says that there are further ones.

    Raises:
        StoreError: The store cannot be read.
    """
    marks = {mark.kind: mark for mark in _MARKS[finding]}
    query = AuditQuery(
        tenant=tenant,
        agent=agent,
        spelled={kind: mark.spelled for kind, mark in marks.items()},
    )
    page = search_audit(store, query, before=before, limit=limit)
    events = [event for event in page.events if _is(event, marks)]
    return AuditPage(events, page.older)


def _is(event: AuditEvent, marks: Mapping[AuditKind, _Mark]) -> bool:
    return marks[AuditKind(event.kind)].holds(event.body)
