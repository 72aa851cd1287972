"""A call takes effect at most once, whoever competes and whoever dies."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import json
import signal
import threading

import psycopg
import pytest
from sqlalchemy import event

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ToolCallError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.driver import UnexpectedRowsError
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog, log
from mlflow_agent_plugin.trust.ledger import ClaimStatus, EffectLedger

OPERATOR = Actor("carol", "bank", frozenset({"operator"}), verified=True)


@pytest.fixture
def ledger(store, clock):
    return EffectLedger(store, clock)


def claim(ledger, key="s:c", **changes):
    values = {"tool": "refund", "arguments_digest": "sha256:a", "owner": "turn-1", **changes}
    return ledger.claim(key, **values)


def test_what_was_never_claimed_can_neither_end_nor_be_resolved(ledger):
    assert ledger.get("s:c") is None
    assert ledger.in_doubt() == []
    for attempt in (
        lambda: ledger.finish("s:c", {}),
        lambda: ledger.fail("s:c", "no"),
        lambda: ledger.resolve("s:c", by=OPERATOR, error="no"),
    ):
        with pytest.raises(ToolCallError, match="never claimed"):
            attempt()


def test_the_first_claim_is_new_and_the_next_ones_are_in_doubt(ledger):
    assert claim(ledger).status is ClaimStatus.NEW
    for owner in ("turn-2", "turn-1"):
        again = claim(ledger, owner=owner)
        assert again.status == "in_doubt"
        assert again.owner == "turn-1"


@pytest.mark.parametrize(
    "result", [{}, {"ok": True}, {"n": 2**70, "f": 1.0, "s": "\ud800\x00", "deep": [[None]]}]
)
def test_a_finished_call_is_replayed_exactly(ledger, result):
    claim(ledger)
    ledger.finish("s:c", result)
    done = claim(ledger, owner="turn-2")
    assert (done.status, done.result, done.error) == ("done", result, None)
    assert json.dumps(done.result, sort_keys=True) == json.dumps(result, sort_keys=True)
    assert ledger.get("s:c") == done


def test_an_optimistic_claim_of_a_new_call_and_its_optimistic_end_stand(ledger):
    assert claim(ledger, optimistic=True).status is ClaimStatus.NEW
    assert ledger.get("s:c").status is ClaimStatus.IN_DOUBT
    ledger.finish("s:c", {"ok": True}, optimistic=True)
    assert ledger.get("s:c").result == {"ok": True}


def test_what_an_optimistic_claim_of_a_taken_call_was_in_writes_nothing(store, ledger):
    claim(ledger)
    for _ in range(2):
        with pytest.raises(UnexpectedRowsError), store.begin() as connection:
            claim(ledger, "s:new", connection=connection)
            claim(ledger, owner="turn-2", connection=connection, optimistic=True)
    assert ledger.get("s:new") is None
    assert ledger.get("s:c").owner == "turn-1"


def test_an_optimistic_claim_that_fails_leaves_every_chain_of_the_audit_to_be_sealed(
    postgres_uri, clock
):
    barrier = threading.Barrier(2)
    with Store.open(postgres_uri) as store:
        ledger, audit = EffectLedger(store, clock), AuditLog(store, checkpoint_every=3)
        claim(ledger)

        def write():
            with audit.transaction() as transaction:
                transaction.append(AuditKind.TOOL_CALL_DECIDED)
                barrier.wait(60)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        audit.append(AuditKind.TOOL_CALL_DECIDED)
        for _ in range(3):
            with pytest.raises(UnexpectedRowsError), audit.transaction() as transaction:
                claim(ledger, connection=transaction.connection, optimistic=True)
                for _ in range(3):
                    transaction.append(AuditKind.TOOL_CALL_STARTED)
        audit.close()
        found = audit.verify()
    assert (found.ok, found.events, found.writers, found.unsealed) == (True, 3, 2, 0)


def test_a_claim_that_waits_to_be_sealed_holds_its_row_already(postgres_uri, clock):
    """Everybody locks rows first and the checkpoints last: nobody deadlocks."""
    with Store.open(postgres_uri) as store:
        ledger, audit = EffectLedger(store, clock), AuditLog(store)

        def start():
            with audit.transaction() as transaction:
                claim(ledger, connection=transaction.connection, optimistic=True)
                transaction.append(AuditKind.TOOL_CALL_STARTED)

        with psycopg.connect(postgres_uri, autocommit=True) as other:
            key = log._CHECKPOINT_LOCK
            other.execute("SELECT pg_advisory_lock(%s)", (key,))
            thread = threading.Thread(target=start)
            thread.start()
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not other.execute(waits).fetchone()[0]:
                assert thread.is_alive()
            other.execute("SET lock_timeout = '200ms'")
            insert = (
                "INSERT INTO agent_effects"
                " (effect_key, tool, arguments_digest, owner, state, attempts, started_at)"
                " VALUES ('s:c', 't', 'd', 'o', 'started', 1, now())"
            )
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(insert)
            other.execute("SELECT pg_advisory_unlock(%s)", (key,))
            thread.join()
        assert ledger.get("s:c").tool == "refund"
        audit.close()


@pytest.mark.parametrize("claimed", [True, False])
def test_an_optimistic_end_of_a_call_that_does_not_run_is_none(ledger, claimed):
    if claimed:
        claim(ledger)
        ledger.fail("s:c", "no")
    with pytest.raises(UnexpectedRowsError):
        ledger.finish("s:c", {}, optimistic=True)
    assert (ledger.get("s:c").error == "no") if claimed else (ledger.get("s:c") is None)


def test_a_failed_call_is_replayed_with_its_error_and_not_run_again(ledger):
    claim(ledger)
    ledger.fail("s:c", "card not found\x00")
    done = claim(ledger)
    assert (done.status, done.result, done.error) == ("done", None, "card not found\\x00")


@pytest.mark.parametrize("result", [{"n": float("nan")}, {"s": {1}}, {"o": object()}])
def test_a_result_that_is_no_json_is_refused_and_the_call_can_still_end(ledger, result):
    claim(ledger)
    with pytest.raises(ToolCallError, match="not JSON"):
        ledger.finish("s:c", result)
    ledger.fail("s:c", "bad output")
    assert claim(ledger).error == "bad output"


def test_ending_twice_alike_is_harmless_and_otherwise_an_error(ledger):
    claim(ledger)
    ledger.finish("s:c", {"ok": True})
    ledger.finish("s:c", {"ok": True})
    with pytest.raises(ToolCallError, match="already ended"):
        ledger.finish("s:c", {"ok": False})
    with pytest.raises(ToolCallError, match="already ended"):
        ledger.fail("s:c", "no")
    assert claim(ledger).result == {"ok": True}


def test_a_result_is_the_same_however_its_json_was_spelled(ledger):
    claim(ledger)
    ledger.finish("s:c", {"b": 1, "a": "x"}, spelled=b'{"a":"x","b":1}')
    ledger.finish("s:c", {"b": 1, "a": "x"})
    with pytest.raises(ToolCallError, match="already ended"):
        ledger.finish("s:c", {"b": True, "a": "x"})
    assert claim(ledger).result == {"a": "x", "b": 1}


@pytest.mark.parametrize("changes", [{"tool": "close"}, {"arguments_digest": "sha256:b"}])
def test_a_key_that_stands_for_another_call_is_refused(ledger, changes):
    claim(ledger)
    with pytest.raises(ToolCallError, match="used before, for another call"):
        claim(ledger, **changes)
    ledger.finish("s:c", {"secret": 1})
    with pytest.raises(ToolCallError, match="used before"):
        claim(ledger, **changes)


def test_a_human_says_what_became_of_a_call_in_doubt(ledger):
    claim(ledger, "s:1")
    claim(ledger, "s:2")
    ledger.resolve("s:1", by=OPERATOR, result={"ok": True})
    ledger.resolve("s:2", by=OPERATOR, error="never reached the bank")
    assert claim(ledger, "s:1").result == {"ok": True}
    assert claim(ledger, "s:2").error == "never reached the bank"
    with pytest.raises(ToolCallError, match="already ended"):
        ledger.resolve("s:1", by=OPERATOR, error="no")


@pytest.mark.parametrize("both", [{}, {"result": {}, "error": "x"}])
def test_a_resolution_says_one_thing(ledger, both):
    claim(ledger)
    with pytest.raises(ToolCallError, match="either"):
        ledger.resolve("s:c", by=OPERATOR, **both)


def test_an_idempotent_call_in_doubt_can_be_run_again_by_one(ledger):
    claim(ledger)
    doubt = claim(ledger, owner="turn-2")
    taken = ledger.take_over("s:c", owner="turn-2", previous=doubt)
    assert (taken.status, taken.owner, taken.attempts) == ("new", "turn-2", 2)
    with pytest.raises(ToolCallError, match="not in doubt any more"):
        ledger.take_over("s:c", owner="turn-3", previous=doubt)
    ledger.finish("s:c", {"ok": True})
    with pytest.raises(ToolCallError, match="not in doubt any more"):
        ledger.take_over("s:c", owner="turn-3", previous=taken)


def test_calls_in_doubt_are_listed_the_oldest_first(ledger, clock):
    claim(ledger, "s:1")
    clock.advance(1)
    claim(ledger, "s:2")
    claim(ledger, "s:3")
    ledger.finish("s:3", {})
    assert [c.key for c in ledger.in_doubt()] == ["s:1", "s:2"]
    assert [c.key for c in ledger.in_doubt(before=clock())] == ["s:1"]
    assert [c.key for c in ledger.in_doubt(limit=1)] == ["s:1"]


def test_calls_in_doubt_are_found_without_a_look_at_those_that_ended(store, ledger):
    """There may be millions of them, and SQLite knows an index of some rows only by its words."""
    claim(ledger, "s:1")
    asked = []
    event.listen(store.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    assert [c.key for c in ledger.in_doubt()] == ["s:1"]
    query, values = next(one for one in asked if "agent_effects" in one[0])
    with store.read() as connection:
        if store.dialect == "postgresql":  # it would rather read a table of one row as a whole
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN" if store.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = str(connection.exec_driver_sql(f"{explain} {query}", values).all())
    assert "agent_effects_running" in plan


def test_claim_and_before_event_are_one(store, ledger, clock):
    audit = AuditLog(store, clock=clock)
    with pytest.raises(ZeroDivisionError), audit.transaction() as transaction:
        ledger.claim(
            "s:c", tool="refund", arguments_digest="sha256:a", owner="o",
            connection=transaction.connection,
        )  # fmt: skip
        transaction.append(AuditKind.TOOL_CALL_STARTED, session_id="s")
        _ = 1 / 0
    assert ledger.get("s:c") is None
    assert audit.events() == []


CLAIM = """
import sys
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.ledger import EffectLedger
uri, me = sys.argv[1:]
ledger = EffectLedger(Store.open(uri))
print("ready", flush=True)
sys.stdin.readline()
new = []
for number in range(50):
    claim = ledger.claim(f"s:{number}", tool="t", arguments_digest="d", owner=me)
    if claim.status == "new":
        new.append(str(number))
        ledger.finish(claim.key, {"by": me})
    elif claim.status == "done":
        assert claim.result["by"] != me
print(",".join(new))
"""


def test_of_four_processes_one_gets_each_of_fifty_claims(store_uri, store, race):
    answers = race(CLAIM, store_uri)
    new = sorted(int(n) for answer in answers for n in answer.split(",") if n)
    assert new == list(range(50))
    assert EffectLedger(store).in_doubt() == []


DIE = """
import os, sys
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.ledger import EffectLedger
uri, effects = sys.argv[1:]
ledger = EffectLedger(Store.open(uri))
number = 0
while True:
    claim = ledger.claim(f"s:{number}", tool="t", arguments_digest="d", owner="victim")
    with open(effects, "a") as file:
        file.write(f"{number}\\n")
        file.flush()
    print(number, flush=True)
    sys.stdin.readline()
    ledger.finish(claim.key, {"number": number})
    number += 1
"""


def test_a_call_whose_worker_was_killed_before_it_ended_is_in_doubt(store_uri, spawn, tmp_path):
    process = spawn(DIE, store_uri, tmp_path / "effects")
    for _ in range(3):
        assert process.stdout.readline().strip().isdigit(), process.stderr.read()
        process.stdin.write("go on\n")
        process.stdin.flush()
    assert process.stdout.readline() == "3\n"
    process.send_signal(signal.SIGKILL)  # between claim and finish: the effect has happened
    process.wait()
    with Store.open(store_uri) as store:
        ledger = EffectLedger(store)
        assert [c.key for c in ledger.in_doubt()] == ["s:3"]
        again = ledger.claim("s:3", tool="t", arguments_digest="d", owner="next")
        assert (again.status, again.owner) == ("in_doubt", "victim")
        done = ledger.claim("s:2", tool="t", arguments_digest="d", owner="next")
        assert (done.status, done.result) == ("done", {"number": 2})
    assert (tmp_path / "effects").read_text().split() == ["0", "1", "2", "3"]
