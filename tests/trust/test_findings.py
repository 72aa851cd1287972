"""Findings in the audit: by what an event says, not by what somebody wrote into it."""

from __future__ import annotations

import pytest

from mlflow_agent_plugin.trust import AuditKind, AuditLog
from mlflow_agent_plugin.trust.audit.findings import Finding, find


@pytest.fixture
def audit(store):
    with AuditLog(store) as log:
        yield log


def tools(page):
    return [event.body.get("tool") or event.body.get("outcome") for event in page.events]


def test_an_empty_audit_holds_no_finding(store):
    for finding in Finding:
        page = find(store, finding, tenant=None)
        assert (list(page.events), page.older) == ([], None)


def test_only_denials_are_denials_however_the_arguments_read(store, audit):
    said = '"value":"deny"'
    for tool, value in (("one", "deny"), ("two", "allow"), ("three", "needs_approval")):
        audit.append(AuditKind.TOOL_CALL_DECIDED, tenant="a", tool=tool, arguments={"text": said},
                     decision={"value": value, "policy_ids": ["p"]})  # fmt: skip
    # An argument that is a decision itself is spelled exactly as one.
    audit.append(AuditKind.TOOL_CALL_DECIDED, tenant="a", tool="four",
                 arguments={"value": "deny"}, decision={"value": "allow"})  # fmt: skip
    assert tools(find(store, Finding.DENIAL, tenant=None)) == ["one"]


def test_noes_and_edits_are_overrides(store, audit):
    audit.append(AuditKind.APPROVAL_ANSWERED, tenant="a", tool="no", vote="no")
    audit.append(AuditKind.APPROVAL_ANSWERED, tenant="a", tool="yes", vote="yes")
    audit.append(AuditKind.APPROVAL_EDITED, tenant="a", tool="less")
    assert tools(find(store, Finding.OVERRIDE, tenant=None)) == ["less", "no"]


def test_escalations_failures_stops_and_overrides_of_rules_are_told_apart(store, audit):
    for outcome in ("escalated", "failed", "answered"):
        audit.append(AuditKind.REQUEST_ANSWERED, tenant="a", outcome=outcome)
    audit.append(AuditKind.TOOL_CALL_FINISHED, tenant="a", tool="doubt", status="in_doubt")
    audit.append(AuditKind.TOOL_CALL_FINISHED, tenant="a", tool="done", status="executed")
    audit.append(AuditKind.SWITCH_STOPPED, tenant="a", tool="stopped")
    audit.append(AuditKind.UNSAFE_OVERRIDE, tenant="a", tool="unsafe")
    assert tools(find(store, Finding.ESCALATION, tenant=None)) == ["escalated"]
    assert tools(find(store, Finding.FAILURE, tenant=None)) == ["doubt", "failed"]
    assert tools(find(store, Finding.STOP, tenant=None)) == ["stopped"]
    assert tools(find(store, Finding.BREAK_GLASS, tenant=None)) == ["unsafe"]


def test_one_tenant_and_one_agent_see_their_own(store, audit):
    for tenant in ("a", "b"):
        for agent in ("x", "y"):
            audit.append(AuditKind.APPROVAL_EDITED, tenant=tenant, agent=agent, tool=tenant + agent)
    assert tools(find(store, Finding.OVERRIDE, tenant="a")) == ["ay", "ax"]
    assert tools(find(store, Finding.OVERRIDE, tenant="a", agent="x")) == ["ax"]


def test_pages_follow_one_another_to_the_end(store, audit):
    for number in range(7):
        audit.append(AuditKind.APPROVAL_EDITED, tenant="a", tool=str(number))
    seen, before = [], None
    for _ in range(4):
        page = find(store, Finding.OVERRIDE, tenant="a", before=before, limit=3)
        seen += tools(page)
        before = page.older
        if before is None:
            break
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    assert before is None
