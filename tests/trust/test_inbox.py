"""The reviewers' inbox: filtered, by tenant and role, page by page."""

from __future__ import annotations

import pytest

from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.trust import ApprovalQueue
from mlflow_agent_plugin.trust.approval.inbox import InboxFilter, list_inbox
from mlflow_agent_plugin.trust.approval.record import ApprovalState


@pytest.fixture
def ask(store, clock):
    queue = ApprovalQueue(store, clock=clock)

    def ask(tool, *, user="kim", role="operations", tenant="a", agent="desk", ttl_seconds=600):
        return queue.request(
            ToolCall(call_id=f"call-{tool}-{user}", tool=tool, arguments={}, session_id="s"),
            agent=agent, agent_digest="sha256:1", policy_digest="sha256:2",
            actor=Actor(user, tenant=tenant), role=role, reason="", ttl_seconds=ttl_seconds,
        )  # fmt: skip

    ask.queue = queue
    return ask


def names(store, clock, **query):
    page = list_inbox(store, tenant=query.pop("tenant", "a"), now=clock(), **query)
    return [item.tool for item in page.approvals]


def test_a_filter_keeps_what_fits_all_of_it(store, clock, ask):
    ask("close")
    ask("refund", user="lee", role="reviewer")
    ask("refund", agent="other")
    ask("theirs", tenant="b")
    for only, wanted in (
        (InboxFilter(), ["close", "refund", "refund"]),
        (InboxFilter(tool="refund"), ["refund", "refund"]),
        (InboxFilter(tool="refund", agent="desk"), ["refund"]),
        (InboxFilter(requested_by="lee"), ["refund"]),
        (InboxFilter(role="reviewer"), ["refund"]),
        (InboxFilter(tool="theirs"), []),
        (InboxFilter(tool="' OR 1=1 --"), []),
    ):
        assert sorted(names(store, clock, only=only)) == wanted, only


def test_what_nobody_answered_in_time_is_expired_and_not_waiting(store, clock, ask):
    ask("slow", ttl_seconds=10)
    ask("said-no", user="lee")
    found = list_inbox(store, tenant="a", now=clock(), only=InboxFilter(tool="said-no"))
    ask.queue.reject(found.approvals[0].approval_id, Actor("otto", tenant="a",
                     roles=frozenset({"operations"})), "no")  # fmt: skip
    clock.advance(11)
    assert names(store, clock) == []
    expired = InboxFilter(state=ApprovalState.EXPIRED)
    assert names(store, clock, waiting=False, only=expired) == ["slow"]
    rejected = InboxFilter(state=ApprovalState.REJECTED)
    assert names(store, clock, waiting=False, only=rejected) == ["said-no"]
