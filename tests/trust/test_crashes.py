"""A worker that is killed at any moment loses no approval and no event, and repeats no effect.

The worker goes through ten calls, each asked for, approved, claimed, done and recorded as the
gateway does it. It says before each step what it is about to do, and is killed with SIGKILL after
the n-th such line, for n in a fixed random order: the signal lands anywhere in the step. Then
another worker goes on where it stopped.
"""

from __future__ import annotations

import random
from collections import Counter

from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import (
    ApprovalQueue,
    ApprovalState,
    AuditKind,
    AuditLog,
    EffectLedger,
    verify_audit,
)

CALLS = 10
WORKER = """
import os, sys
from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import ApprovalQueue, ApprovalState, AuditLog, EffectLedger
uri, effects, me = sys.argv[1:]
store = Store.open(uri)
audit = AuditLog(store, checkpoint_every=5)
queue, ledger = ApprovalQueue(store, audit=audit), EffectLedger(store)
eve, bob = Actor("eve", "bank"), Actor("bob", "bank", frozenset({"clerk"}))
file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def say(step):
    print(step, flush=True)

for number in range(10):
    call = ToolCall(f"c{number}", "pay", {"n": number}, "s")
    key = f"s:c{number}"
    found = ledger.get(key)
    if found is not None:
        continue  # done, or in doubt: not for us to repeat
    say("ask")
    approval = queue.request(
        call, agent="a", agent_digest="d", policy_digest="p", actor=eve, role="clerk",
        reason="r", ttl_seconds=3600,
    )
    say("answer")
    if approval.state is ApprovalState.WAITING:
        queue.approve(approval.approval_id, bob)
    say("claim")
    with audit.transaction() as transaction:
        claim = ledger.claim(
            key, tool="pay", arguments_digest="x", owner=me, connection=transaction.connection
        )
        assert claim.status == "new", claim
        queue.mark_executed(
            approval.approval_id, action_digest=approval.action_digest, transaction=transaction
        )
        transaction.append(
            "tool_call_decided", session_id="s", call_id=call.call_id, starts={"effect": "write"}
        )
    say("effect")
    os.write(file, f"{call.call_id}\\n".encode())
    say("record")
    with audit.transaction() as transaction:
        ledger.finish(key, {"n": number}, connection=transaction.connection)
        transaction.append("tool_call_finished", session_id="s", call_id=call.call_id)
say("end")
audit.close()
"""


def check(uri, effects):
    """Check every invariant on what a dead worker left; return how many calls were begun."""
    happened = Counter(effects.read_text().split()) if effects.exists() else Counter()
    assert set(happened.values()) <= {1}, "an effect happened twice"
    with Store.open(uri) as store:
        verification = verify_audit(store)
        assert verification.ok, verification
        audit, ledger, queue = AuditLog(store), EffectLedger(store), ApprovalQueue(store)
        events = Counter(
            (event.kind, event.body["call_id"]) for event in audit.events(session_id="s")
        )
        assert set(events.values()) <= {1}, "an event is there twice"
        begun = 0
        for number in range(CALLS):
            call_id = f"c{number}"
            claim, approval = ledger.get(f"s:{call_id}"), queue.find("s", call_id)
            asked = events[AuditKind.APPROVAL_REQUESTED.value, call_id]
            answered = events[AuditKind.APPROVAL_ANSWERED.value, call_id]
            started = events[AuditKind.TOOL_CALL_DECIDED.value, call_id]
            finished = events[AuditKind.TOOL_CALL_FINISHED.value, call_id]
            assert asked == (approval is not None)
            assert answered == (asked and approval.state is not ApprovalState.WAITING)
            executed = bool(asked) and approval.state is ApprovalState.EXECUTED
            assert started == executed == (claim is not None)
            assert finished == (claim is not None and claim.status == "done")
            assert happened[call_id] <= started, "an effect without its before-event"
            assert happened[call_id] >= finished, "an after-event without its effect"
            begun += claim is not None
        return begun


def test_a_worker_killed_at_any_step_leaves_everything_in_order(store_uri, spawn, tmp_path):
    effects = tmp_path / "effects"
    Store.open(store_uri).close()
    steps, kills = random.Random(7), 0
    while True:
        process = spawn(WORKER, store_uri, effects, f"worker-{kills}")
        last = ""
        for _ in range(steps.randint(1, 9)):
            last = process.stdout.readline().strip()
            assert last, process.stderr.read()
            if last == "end":
                break
        if last == "end":
            assert process.wait() == 0
            break
        process.kill()
        process.wait()
        kills += 1
        check(store_uri, effects)
    assert kills >= 5
    assert check(store_uri, effects) == CALLS
    with Store.open(store_uri) as store:
        for claim in EffectLedger(store).in_doubt():
            assert claim.owner != f"worker-{kills}", "the last worker ended all it began"
