"""A reviewer's edit is a new decision: contract and policies see the edited call before it runs."""

from __future__ import annotations

import json

import pytest
from helpers.shelf_agent import HARD, call, say, write_bundle

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, Outcome
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import AuditKind, AuditLog, read_request, verify_audit

ANN = Actor("ann", verified=True)
WALT = Actor("walt", roles=frozenset({"warden"}), verified=True)
VERA = Actor("vera", roles=frozenset({"warden"}), verified=True)

RULES = (
    HARD
    + """
@id("no-house")
@reason("the house stays")
forbid (principal, action == Agent::Action::"burn", resource)
when { context.input.item == "house" };

@id("own-words-for-paper")
forbid (principal, action == Agent::Action::"burn", resource)
when { context.input.item == "paper" && context.provenance.item != "user" };

@id("nothing-untrusted")
forbid (principal, action == Agent::Action::"burn", resource)
when { context.provenance.item == "untrusted" };
"""
)
QUORUM = """
@id("burning-needs-a-warden")
@approval("warden")
forbid (principal, action == Agent::Action::"burn", resource)
when { !(context.input has amount && context.input.amount > 100) }
unless { context.session.approved };

@id("a-lot-needs-two")
@approval("warden") @quorum("2")
forbid (principal, action == Agent::Action::"burn", resource)
when { context.input has amount && context.input.amount > 10 && context.input.amount <= 100 }
unless { context.session.approved };

@id("far-too-much-needs-the-mayor")
@approval("mayor")
forbid (principal, action == Agent::Action::"burn", resource)
when { context.input has amount && context.input.amount > 100 }
unless { context.session.approved };
"""
ROLES = """
apiVersion: mlflow-agents/v1
roles: {warden: decides what may burn, mayor: decides about the rest}
"""


@pytest.fixture
def opened(tmp_path):
    runtimes = []

    def make(*replies):
        root = write_bundle(tmp_path / "bundle", list(replies), folder=tmp_path / "shelf")
        (root / "policies/hard.cedar").write_text(RULES)
        (root / "policies/approval.cedar").write_text(QUORUM)
        (root / "policies/roles.yaml").write_text(ROLES)
        runtime = AgentRuntime.open(load_bundle(root), tracing=False)
        runtimes.append(runtime)
        return runtime

    yield make
    for runtime in runtimes:
        runtime.close()


def ask(runtime, text="go", **more):
    return runtime.invoke(AgentRequest(text=text, session_id="s1", actor=ANN, **more))


def burn(runtime, item="map"):
    reply = ask(runtime, f"please burn the {item}")
    assert reply.outcome is Outcome.WAITING_APPROVAL
    return reply.approvals[0]


def events(runtime, kind):
    return AuditLog(runtime.store).events(session_id="s1", kind=kind)


def told(runtime):
    config = {"configurable": {"thread_id": "s1"}}
    messages = runtime.graph.get_state(config).values["messages"]
    return [json.loads(m.content) for m in messages if m.type == "tool"]


def test_the_edited_call_runs_instead_and_model_and_audit_are_told_both(opened, effects):
    runtime = opened(call("burn", "map"), say("burnt"))
    waiting = burn(runtime)
    runtime.approvals.edit(waiting.approval_id, WALT, {"item": "copy"}, "the map is needed")
    reply = ask(runtime, "", resume=True)
    assert (reply.outcome, effects()) == (Outcome.ACTED, ["copy"])
    assert (reply.calls[0].tool, reply.calls[0].arguments) == ("burn", {"item": "copy"})
    assert told(runtime)[0]["edited_by_reviewer"] == {"item": "copy"}
    assert reply.text == 'burnt\n\nA reviewer changed what was done: burn (item: "copy").'
    decided = events(runtime, AuditKind.TOOL_CALL_DECIDED)
    assert (decided[0].body["arguments"], decided[0].body["edited"]) == ({"item": "map"}, [])
    assert (decided[-1].body["arguments"], decided[-1].body["edited"]) == (
        {"item": "copy"}, ["item"],
    )  # fmt: skip
    assert decided[-1].body["provenance"] == {"item": "trusted"}
    (edited,) = events(runtime, AuditKind.APPROVAL_EDITED)
    (started,) = [event for event in decided if event.starts_tool]
    assert edited.body["approval_id"] == waiting.approval_id
    assert started.body["approval_id"] == edited.body["replaced_by"]
    assert started.body["arguments"] == {"item": "copy"}
    assert edited.request_id == decided[0].request_id
    assert verify_audit(runtime.store).ok


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        ({"item": "house"}, CallStatus.DENIED, "the house stays"),
        ({"item": "paper"}, CallStatus.DENIED, "own-words-for-paper"),
        ({"item": 5}, CallStatus.INVALID, "does not fit the input contract"),
        ({}, CallStatus.INVALID, "does not fit the input contract"),
        ({"item": "map", "tool": "put"}, CallStatus.INVALID, "does not fit the input contract"),
        ({"item": "map", "amount": 50}, CallStatus.DENIED, "edited call needs 2 approval(s) by w"),
        ({"item": "map", "amount": 500}, CallStatus.DENIED, "edited call needs 1 approval(s) by m"),
    ],
    ids=["hard rule", "provenance", "type", "missing", "unknown", "more people", "another role"],
)
def test_an_edit_the_rules_do_not_cover_is_refused_without_effect(
    opened, effects, arguments, status, why
):
    runtime = opened(call("burn", "map"), say("not burnt"))
    waiting = burn(runtime)
    runtime.approvals.edit(waiting.approval_id, WALT, arguments, "because")
    reply = ask(runtime, "", resume=True)
    assert [found.status for found in reply.calls] == [status]
    assert why in reply.calls[0].error
    assert effects() == []


def test_a_value_copied_from_somebody_elses_text_stays_untrusted(opened, effects):
    runtime = opened(call("read_mail", "inbox", "c0"), call("burn", "map"), say("no"))
    waiting = burn(runtime)
    runtime.approvals.edit(
        waiting.approval_id, WALT, {"item": "please burn the house"}, "as the mail says"
    )
    reply = ask(runtime, "", resume=True)
    assert reply.calls[-1].status is CallStatus.DENIED
    assert "nothing-untrusted" in reply.calls[-1].error
    assert effects() == []


def test_two_people_have_to_agree_to_the_edited_call_if_the_first_took_two(opened, effects):
    runtime = opened(call("burn", "map", amount=50), say("burnt"))
    waiting = burn(runtime)
    edited = runtime.approvals.edit(
        waiting.approval_id, WALT, {"item": "map", "amount": 20}, "less"
    )
    still = ask(runtime, "", resume=True)
    assert still.outcome is Outcome.WAITING_APPROVAL
    assert (still.approvals[0].approval_id, still.approvals[0].arguments) == (
        edited.approval_id, {"item": "map", "amount": 20},
    )  # fmt: skip
    again = runtime.approvals.edit(
        edited.approval_id, VERA, {"item": "copy", "amount": 20}, "and the copy"
    )
    assert ask(runtime, "", resume=True).approvals[0].approval_id == again.approval_id
    runtime.approvals.approve(again.approval_id, WALT)
    assert ask(runtime, "", resume=True).outcome is Outcome.ACTED
    assert effects() == ["copy"]
    assert verify_audit(runtime.store).ok


def test_an_edit_that_nobody_confirms_expires_like_the_call_itself(opened, effects, monkeypatch):
    runtime = opened(call("burn", "map", amount=50), say("too late"))
    waiting = burn(runtime)
    made = runtime.approvals.get(waiting.approval_id)
    edited = runtime.approvals.edit(waiting.approval_id, WALT, {"item": "copy", "amount": 20}, "x")
    assert edited.expires_at == made.expires_at
    monkeypatch.setattr(runtime.approvals, "_clock", lambda: made.expires_at)
    reply = ask(runtime, "", resume=True)
    assert [found.status for found in reply.calls] == [CallStatus.REJECTED]
    assert effects() == []


def test_the_story_of_one_request_spans_the_requests_its_calls_went_on_in(opened):
    runtime = opened(call("burn", "map", amount=50), say("burnt"), say("hello"))
    waiting = burn(runtime)
    asked = events(runtime, AuditKind.REQUEST_RECEIVED)[0].request_id
    edited = runtime.approvals.edit(
        waiting.approval_id, WALT, {"item": "copy", "amount": 20}, "less will do"
    )
    runtime.approvals.approve(edited.approval_id, VERA)
    ask(runtime, "", resume=True)
    ask(runtime, "something else")
    story = read_request(runtime.store, asked)
    assert (story.actor["user"], story.actor["verified"], story.agent) == ("ann", True, "shelf")
    assert story.agent_digest == runtime.bundle.digest.value
    assert story.outcome == "waiting_approval"
    assert list(story.continued_in.values()) == ["acted"]
    assert set(story.policies) == {"a-lot-needs-two", "burning-needs-a-warden", "writes"}
    (told_,) = story.calls
    assert (told_.tool, told_.status, told_.started) == ("burn", "executed", True)
    assert [answer["by"] for answer in told_.answers] == ["walt", "walt", "vera"]
    text = story.to_text()
    for line in (
        "asked by   ann@default (no role; verified)",
        "walt (verified) edited amount, item: less will do",
        "vera (verified) said yes, 2 of 2",
        "executed",
        "went on in request",
    ):
        assert line in text
    json.dumps(story.to_dict())
    with pytest.raises(StoreError, match="no such request"):
        read_request(runtime.store, asked, tenant="other")
    with pytest.raises(StoreError, match="no such request"):
        read_request(runtime.store, "nothing")
