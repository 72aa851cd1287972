"""Guards, credentials and the privacy filter: where they stand around a call, and when they break."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
from helpers.shelf_agent import call, say

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.runtime import runtime as runtime_module
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, sha256_of_json
from mlflow_agent_plugin.trust import (
    AuditKind,
    AuditLog,
    CallRefusedError,
    Credential,
    EffectLedger,
    NoPrivacyFilter,
    verify_audit,
)

ANN = Actor(user="ann")
WARDEN = Actor(user="walt", roles=frozenset({"warden"}))


@pytest.fixture
def governed(shelf, monkeypatch):
    """Open a shelf agent with other parts in its governance; tools may be wrapped."""
    opened = []
    real = runtime_module.build_governance

    def make(*replies, wrap=None, **parts):
        monkeypatch.setattr(
            runtime_module, "build_governance", lambda *a, **k: replace(real(*a, **k), **parts)
        )
        runtime = AgentRuntime.open(shelf(*replies), tracing=False, tool_wrapper=wrap)
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()


def ask(runtime, text="go", **more):
    return runtime.invoke(AgentRequest(text=text, session_id="s1", actor=ANN, **more))


def kinds(runtime):
    return [event.kind for event in AuditLog(runtime.store).events(session_id="s1")]


def told(runtime):
    state = runtime.graph.get_state({"configurable": {"thread_id": "s1"}})
    return [json.loads(m.content) for m in state.values["messages"] if m.type == "tool"]


class Guard:
    """Writes down what it sees; refuses or breaks if told to."""

    def __init__(self, refusal=None, settling=None):
        self.refusal = refusal
        self.settling = settling
        self.seen = []

    @contextmanager
    def admit(self, governed):
        self.seen.append(("admitted", governed.call.tool))
        if self.refusal is not None:
            raise self.refusal
        try:
            yield
        except CallRefusedError as refusal:
            self.seen.append(("ended", refusal.status.value))
            raise
        self.seen.append(("ended", "executed"))
        if self.settling is not None:
            raise self.settling


def test_a_guard_that_refuses_comes_before_the_claim_and_says_when_to_retry(governed, effects):
    refusal = CallRefusedError(
        CallStatus.DENIED, "limited", "too many calls", retry_after_seconds=7
    )
    runtime = governed(call("put", "lamp"), say("later"), guards=(Guard(refusal),))
    reply = ask(runtime)
    (record,) = reply.calls
    assert (record.status, record.error) == (CallStatus.DENIED, "limited: too many calls")
    assert record.retry_after_seconds == 7
    assert told(runtime) == [
        {"error": {"kind": "limited", "message": "too many calls", "retry_after_seconds": 7}}
    ]
    assert effects() == []
    assert EffectLedger(runtime.store).get("s1:c1") is None
    assert not any(event.starts_tool for event in AuditLog(runtime.store).events())
    assert kinds(runtime).count(AuditKind.TOOL_CALL_FINISHED) == 1


def test_a_guard_is_not_asked_about_a_call_the_policies_deny(governed):
    guard = Guard()
    ask(governed(call("put", "gold"), say("no"), guards=(guard,)))
    assert guard.seen == []


def test_a_guard_that_breaks_is_a_no(governed, effects):
    runtime = governed(call("put", "lamp"), say("no"), guards=(Guard(KeyError("secret")),))
    (record,) = ask(runtime).calls
    assert record.status is CallStatus.FAILED
    assert record.error == "failed: a guard failed with KeyError"
    assert effects() == []


def test_a_guard_learns_how_the_call_ended(governed):
    first, second = Guard(), Guard()
    runtime = governed(
        call("put", "lamp"), call("look", "broken", "c2"), say("x"), guards=(first, second)
    )
    ask(runtime)
    expected = [
        ("admitted", "put"),
        ("ended", "executed"),
        ("admitted", "look"),
        ("ended", "failed"),
    ]
    assert first.seen == second.seen == expected


def test_a_guard_that_refuses_lets_those_before_it_settle(governed):
    first = Guard()
    refusal = CallRefusedError(CallStatus.DENIED, "limited", "no")
    ask(governed(call("put", "lamp"), say("x"), guards=(first, Guard(refusal))))
    assert first.seen == [("admitted", "put"), ("ended", "denied")]


def test_a_guard_that_cannot_settle_does_not_undo_what_happened(governed, effects):
    runtime = governed(call("put", "lamp"), say("done"), guards=(Guard(settling=OSError("x")),))
    (record,) = ask(runtime).calls
    assert record.status is CallStatus.EXECUTED
    assert effects() == ["lamp"]


class Lender:
    """Lends the name of the tool as its credential."""

    def __init__(self, lending=None, returning=None):
        self.lending = lending
        self.returning = returning
        self.out = []

    @contextmanager
    def lend(self, governed):
        if self.lending is not None:
            raise self.lending
        key = f"key-for-{governed.call.tool}"
        self.out.append(key)
        try:
            yield Credential({"shelf": {"value": key}}, tool=governed.call.tool)
        finally:
            self.out.pop()
        if self.returning is not None:
            raise self.returning


def test_a_tool_gets_its_credential_for_the_call_and_nobody_else_sees_it(governed):
    lender, got = Lender(), []

    def wrap(name, function):
        def run(context, **arguments):
            got.append((context.credential.reveal(), list(lender.out), "key-for" in repr(context)))
            return function(context, **arguments)

        return run

    runtime = governed(call("put", "lamp"), say("done"), credentials=lender, wrap=wrap)
    reply = ask(runtime)
    assert got == [("key-for-put", ["key-for-put"], False)]
    assert lender.out == []
    events = [event.to_dict() for event in AuditLog(runtime.store).events()]
    assert "key-for" not in f"{reply}{events}{told(runtime)}"


def test_a_credential_that_cannot_be_lent_means_the_tool_did_not_run(governed, effects):
    runtime = governed(call("put", "lamp"), say("x"), credentials=Lender(OSError("vault: s3cret")))
    (record,) = ask(runtime).calls
    assert record.status is CallStatus.FAILED
    assert "s3cret" not in record.error
    assert effects() == []
    claim = EffectLedger(runtime.store).get("s1:c1")
    assert claim.status == "done"
    assert claim.error == "'put' failed: its credential could not be had (OSError)"


def test_a_credential_that_is_not_given_back_does_not_undo_what_happened(governed, effects):
    lender = Lender(returning=OSError("vault is away"))
    (record,) = ask(governed(call("put", "lamp"), say("x"), credentials=lender)).calls
    assert record.status is CallStatus.EXECUTED
    assert effects() == ["lamp"]


class Tokens(NoPrivacyFilter):
    """The model sees <ITEM>, the tool gets lamp."""

    def __init__(self, breaks=""):
        self.breaks = breaks

    def user_text(self, text, *, session_id):
        return text.replace("lamp", "<ITEM>")

    def arguments(self, governed):
        if self.breaks == "arguments":
            raise KeyError("lamp")
        return {
            name: "lamp" if value == "<ITEM>" else value
            for name, value in governed.call.arguments.items()
        }

    def output(self, governed, output):
        if self.breaks == "output":
            raise KeyError("lamp")
        return json.loads(json.dumps(output).replace("lamp", "<ITEM>"))

    def answer(self, text, *, session_id):
        return text.replace("<ITEM>", "lamp")


def test_the_tool_gets_the_true_value_and_everybody_else_the_token(governed, effects):
    runtime = governed(call("put", "<ITEM>"), say("Put <ITEM> away."), privacy=Tokens())
    reply = ask(runtime, "put the lamp away")
    assert effects() == ["lamp"]
    assert reply.text == "Put lamp away."
    assert told(runtime) == [{"ok": True, "item": "<ITEM>"}]
    assert reply.calls[0].arguments == {"item": "<ITEM>"}
    events = [event.to_dict() for event in AuditLog(runtime.store).events()]
    assert "lamp" not in str(events)
    decided = next(e for e in events if e["kind"] == AuditKind.TOOL_CALL_DECIDED)
    assert decided["body"]["provenance"] == {"item": "user"}
    assert EffectLedger(runtime.store).get("s1:c1").result == {"ok": True, "item": "<ITEM>"}


def test_policies_decide_on_the_true_value(governed, effects):
    class Gold(Tokens):
        def arguments(self, governed):
            return {"item": "gold"}

    (record,) = ask(governed(call("put", "<ITEM>"), say("x"), privacy=Gold())).calls
    assert record.status is CallStatus.DENIED
    assert effects() == []


def test_a_filter_that_breaks_before_the_tool_is_a_no(governed, effects):
    (record,) = ask(governed(call("put", "lamp"), say("x"), privacy=Tokens("arguments"))).calls
    assert record.status is CallStatus.FAILED
    assert effects() == []


def test_a_filter_that_breaks_after_the_tool_hides_the_output_and_keeps_the_effect_once(
    governed, effects
):
    replies = (call("put", "lamp"), say("x"), call("put", "lamp"), say("y"))
    runtime = governed(*replies, privacy=Tokens("output"))
    (record,) = ask(runtime).calls
    assert record.status is CallStatus.FAILED
    assert record.output is None
    assert EffectLedger(runtime.store).get("s1:c1").status == "done"
    ask(runtime, "again")
    assert effects() == ["lamp"]


class Withheld(Tokens):
    """The model sees a digest where the contract has a boolean, and not every required field."""

    def output(self, governed, output):
        return {"item": ["sha256:aa"]}


def test_a_write_whose_output_is_withheld_is_replayed_as_the_success_it_was(governed, effects):
    replies = (call("put", "lamp"), say("x"), call("put", "lamp"), say("y"))
    runtime = governed(*replies, privacy=Withheld())
    (first,) = ask(runtime).calls
    (again,) = ask(runtime, "again").calls
    assert [first.status, again.status] == [CallStatus.EXECUTED] * 2
    assert first.output == again.output == {"item": ["sha256:aa"]}
    assert effects() == ["lamp"]


def test_an_output_that_was_refused_is_refused_again_and_not_shown_by_a_replay(governed, effects):
    def wrap(name, function):
        def run(context, **arguments):
            return {**function(context, **arguments), "secret": "gold"}

        return run

    replies = (call("put", "lamp"), say("x"), call("put", "lamp"), say("y"))
    runtime = governed(*replies, wrap=wrap)
    first, again = (ask(runtime, text).calls[0] for text in ("go", "again"))
    assert [first.status, again.status] == [CallStatus.FAILED] * 2
    assert first.error == again.error
    assert again.output is None
    assert EffectLedger(runtime.store).get("s1:c1").result["secret"] == "gold"
    assert effects() == ["lamp"]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"ok": True, "item": "lamp"}, CallStatus.EXECUTED),
        ({"ok": "perhaps"}, CallStatus.FAILED),
    ],
)
def test_what_a_person_found_out_about_a_call_in_doubt_is_checked_and_filtered(
    governed, effects, found, status
):
    runtime = governed(call("put", "<ITEM>"), say("x"), privacy=Tokens())
    ledger = EffectLedger(runtime.store)
    digest = sha256_of_json({"item": "lamp"})
    ledger.claim("s1:c1", tool="put", arguments_digest=digest, owner="a worker that died")
    ledger.resolve("s1:c1", by=WARDEN, result=found)
    (record,) = ask(runtime).calls
    assert record.status is status
    assert record.output in ({"ok": True, "item": "<ITEM>"}, None)
    assert effects() == []


def test_before_and_after_are_two_transactions(governed, monkeypatch):
    runtime = governed(call("put", "lamp"), say("x"))
    sizes = []
    real = AuditLog.transaction

    @contextmanager
    def counted(log):
        with real(log) as transaction:
            before = transaction.writer.seq
            yield transaction
            sizes.append(transaction.writer.seq - before)

    monkeypatch.setattr(AuditLog, "transaction", counted)
    ask(runtime)
    # request received; decided, with the start; finished; request answered
    assert sizes == [1, 1, 1, 1]
    assert verify_audit(runtime.store).ok


def test_a_read_that_was_approved_is_replayed_and_not_read_again(governed, shelf, tmp_path):
    policy = shelf(say("-"), name="bundle").root / "policies" / "approval.cedar"
    text = policy.read_text().replace('Agent::Action::"burn"', 'Agent::Action::"look"')
    reads = []

    def wrap(name, function):
        def run(context, **arguments):
            reads.append(name)
            return function(context, **arguments)

        return run

    from mlflow_agent_plugin.package import load_bundle

    replies = (call("look", "lamp"), say("seen"), call("look", "lamp"), say("seen again"))
    root = shelf(*replies, name="reading").root
    (root / "policies" / "approval.cedar").write_text(text)
    with AgentRuntime.open(load_bundle(root), tracing=False, tool_wrapper=wrap) as runtime:
        waiting = ask(runtime).approvals[0]
        runtime.approvals.approve(waiting.approval_id, WARDEN)
        assert ask(runtime, "", resume=True).text == "seen"
        ask(runtime, "again")
        assert reads == ["look"]
