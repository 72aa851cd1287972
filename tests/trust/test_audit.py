"""The audit keeps every event that was acknowledged, in an order nobody can change quietly."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.tables import audit_checkpoints
from mlflow_agent_plugin.trust.audit import (
    AuditKind,
    AuditLog,
    AuditSubject,
    read_request,
    verify_audit,
)
from mlflow_agent_plugin.trust.audit.chain import (
    HEADER_FIELDS,
    MAX_BODY_BYTES,
    event_hash,
    spell_body,
    spell_fields,
)
from mlflow_agent_plugin.trust.keys import KeyStore, SigningKey

EVE = Actor("eve", "bank", frozenset({"vip", "customer"}), verified=True)
KIND = AuditKind.TOOL_CALL_DECIDED


@pytest.fixture
def log(store, clock):
    return AuditLog(store, clock=clock)


def checkpoints(store):
    with store.read() as connection:
        query = select(audit_checkpoints.c.seq).order_by(audit_checkpoints.c.number)
        return list(connection.scalars(query))


def test_an_empty_audit_is_intact(store, log):
    assert log.events() == []
    assert log.anchor() is None
    log.checkpoint()
    log.close()
    verification = verify_audit(store)
    assert verification.ok
    assert (verification.events, verification.checkpoints, verification.first_bad) == (0, 0, None)


def test_what_is_no_kind_of_event_is_refused_and_nothing_written(store, log):
    with pytest.raises(ValueError, match="tool_call_dreamt"):
        log.append("tool_call_dreamt")
    assert log.events() == []
    log.append(KIND)
    assert verify_audit(store).ok


def test_an_event_comes_back_with_all_that_was_said(log, clock):
    event_id = log.append(
        KIND, request_id="r", session_id="s", actor=EVE, agent="support", agent_digest="sha256:d",
        tool="refund", arguments={"amount": 1.5, "note": "žluťoučký\u2028"},
    )  # fmt: skip
    (event,) = log.events()
    assert event.event_id == event_id == f"{event.writer}-1"
    assert event.ts == "2026-01-01T00:00:00.000000+00:00"
    assert (event.kind, event.actor, event.tenant) == ("tool_call_decided", "eve", "bank")
    assert (event.request_id, event.session_id) == ("r", "s")
    assert event.body == {
        "actor": {"user": "eve", "tenant": "bank", "roles": ["customer", "vip"], "verified": True},
        "arguments": {"amount": 1.5, "note": "žluťoučký\u2028"},
        "tool": "refund",
    }
    json.dumps(event.to_dict())


def test_an_actor_may_be_just_a_name(log):
    log.append(KIND, actor="nightly job", tenant="bank")
    (event,) = log.events()
    assert (event.actor, event.tenant, event.body) == ("nightly job", "bank", {})


def nested(levels):
    deep = value = {}
    for _ in range(levels):
        value["a"] = value = {}
    return deep


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (float("nan"), {"unspellable": "nan"}),
        (float("-inf"), {"unspellable": "-inf"}),
        (10**5000, {"unspellable": "an integer of 16610 bits"}),
        (b"bytes", {"unspellable": "bytes"}),
        (object, {"unspellable": "type"}),
        ({2, 1}, [1, 2]),
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_json_cannot_spell_does_not_keep_an_event_off_the_record(store, log, value, kept):
    log.append(KIND, hostile=value, also=float("nan"))
    assert log.events()[0].body["hostile"] == kept
    assert verify_audit(store).ok


@pytest.mark.parametrize("levels", [100, 1_000, 100_000])
def test_nor_does_one_that_is_nested_too_deeply(store, log, levels):
    log.append(KIND, hostile=nested(levels), tool="refund")
    body = log.events()[0].body
    assert body["tool"] == "refund"
    assert len(str(body)) < 10_000
    assert verify_audit(store).ok


def test_nor_does_one_that_is_too_large(store, log):
    log.append(KIND, hostile="x" * 1_000_000, tool="refund")
    body = log.events()[0].body
    assert body["too_large"] is True
    assert body["bytes"] > 1_000_000
    assert body["fields"] == ["hostile", "tool"]
    assert body["tool"] == "refund", "its short fields stay"
    assert body["begins"].startswith('{"hostile":"xxx')
    assert body["sha256"].startswith("sha256:")
    assert len(json.dumps(body)) < MAX_BODY_BYTES
    assert verify_audit(store).ok


def test_a_start_whose_decision_is_too_large_is_known_for_one(store, log):
    about = {"request_id": "r", "call_id": "c1", "tool": "put", "decision": {"value": "allow"}}
    huge = {f"argument-{number}": "untrusted" for number in range(5000)}
    log.append(AuditKind.REQUEST_RECEIVED, request_id="r")
    scopes = [f"orders-of-the-northern-branch:{number}:write" for number in range(100)]
    log.append(KIND, **about, provenance=huge, starts={"effect": "write", "scopes": scopes})
    event = log.events()[-1]
    assert event.body["starts"]["scopes"] == scopes
    assert event.body["too_large"] is True
    assert event.starts_tool
    story = read_request(store, "r")
    assert [(c.call_id, c.tool, c.started, c.status) for c in story.calls] == [
        ("c1", "put", True, None)
    ]
    assert "begun, no end on record" in story.to_text()


@pytest.mark.parametrize(
    ("kind", "body", "starts"),
    [
        ("tool_call_decided", {"starts": {"effect": "read"}}, True),
        ("tool_call_decided", {}, False),
        ("tool_call_decided", {"too_large": True, "starts": '{"call_id":'}, False),
        ("tool_call_started", {"effect": "read"}, True),
        ("tool_call_finished", {"starts": {"effect": "read"}}, False),
    ],
    ids=["decided-and-started", "decided", "too-large-once", "started-once", "finished"],
)
def test_an_event_says_whether_a_tool_starts_whichever_version_wrote_it(log, kind, body, starts):
    log.append(kind, **body)
    assert log.events()[0].starts_tool is starts


def test_a_huge_denial_starts_nothing(log):
    log.append(KIND, call_id="c" * 70_000, decision={"value": "deny"})
    (event,) = log.events()
    assert event.body["too_large"] is True
    assert event.body["decision"] == {"value": "deny"}
    assert not event.starts_tool


def test_nor_do_characters_a_database_refuses(store, log):
    log.append(KIND, session_id="a\x00b", actor="\ud800", text="\x00\ud800", **{"ke\x00y": 1})
    (event,) = log.events()
    assert (event.session_id, event.actor) == ("a\\x00b", "\\ud800")
    assert event.body == {"text": "\x00\ud800", "ke\x00y": 1}
    assert verify_audit(store).ok


def test_events_are_found_by_what_they_are_about_in_the_order_they_were_written(log):
    ids = [
        log.append(KIND, session_id="s1", request_id="r1", tenant="bank"),
        log.append(AuditKind.REQUEST_ANSWERED, session_id="s1", request_id="r1", tenant="bank"),
        log.append(KIND, session_id="s2", request_id="r2", tenant="other"),
    ]

    def found(**wanted):
        return [ids.index(event.event_id) for event in log.events(**wanted)]

    assert found() == [0, 1, 2]
    assert found(session_id="s1") == [0, 1]
    assert found(request_id="r2") == [2]
    assert found(kind=KIND) == found(kind="tool_call_decided") == [0, 2]
    assert found(tenant="bank", kind=KIND) == [0]
    assert found(limit=2) == [1, 2]
    assert found(session_id="s3") == []


def test_events_and_other_rows_are_written_together_or_not_at_all(store, log):
    with log.transaction() as transaction:
        first = transaction.append(KIND, n=1)
        second = transaction.append(KIND, n=2)
    with pytest.raises(ZeroDivisionError), log.transaction() as transaction:
        transaction.append(KIND, n=3)
        _ = 1 / 0
    third = log.append(KIND, n=4)
    assert [event.event_id for event in log.events()] == [first, second, third]
    assert [event.body["n"] for event in log.events()] == [1, 2, 4]
    assert verify_audit(store).ok


def test_an_event_inside_another_write_transaction_is_refused_at_once(store, log):
    with store.begin(), pytest.raises(RuntimeError, match="nested"):
        log.append(KIND)
    with log.transaction(), pytest.raises(RuntimeError, match="nested"):
        log.append(KIND)
    log.append(KIND)
    assert verify_audit(store).ok


def test_the_first_event_is_sealed_at_once_and_then_every_so_many(store, clock):
    log = AuditLog(store, clock=clock, checkpoint_every=4)
    for _ in range(10):
        log.append(KIND)
    assert checkpoints(store) == [1, 5, 9]
    assert verify_audit(store).unsealed == 1
    log.close()
    log.close()
    assert checkpoints(store) == [1, 5, 9, 10]
    assert verify_audit(store).unsealed == 0


def test_a_slow_writer_is_sealed_by_the_clock(store, clock):
    log = AuditLog(store, clock=clock, checkpoint_every=100, checkpoint_seconds=60)
    log.append(KIND)
    clock.advance(59)
    log.append(KIND)
    clock.advance(1)
    log.append(KIND)
    log.append(KIND)
    assert checkpoints(store) == [1, 3]


def test_leaving_a_with_block_seals(store, clock):
    with AuditLog(store, clock=clock) as log:
        log.append(KIND)
        log.append(KIND)
    assert checkpoints(store) == [1, 2]


def test_a_given_key_signs_instead_of_this_machines(store, clock):
    key = SigningKey.generate()
    log = AuditLog(store, clock=clock, key=key)
    log.append(KIND)
    assert not KeyStore().folder.exists()
    assert log.verify().ok
    assert verify_audit(store, trusted_keys={key.key_id: key.public_key}).ok
    assert not verify_audit(store, trusted_keys={}).ok


def test_an_event_that_cannot_be_written_raises(store_uri, clock):
    with Store.open(store_uri) as store:
        log = AuditLog(store, clock=clock)
        log.append(KIND)
        with store.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE agent_audit_events RENAME TO hidden")
        with pytest.raises(StoreError):
            log.append(KIND)
        with store.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO agent_audit_events")
        log.append(KIND)
        assert verify_audit(store).ok
        assert len(log.events()) == 2


def test_after_a_commit_of_unknown_fate_the_log_goes_on_as_a_new_writer(store, log, monkeypatch):
    log.append(KIND, n=1)
    real = store.begin

    @contextmanager
    def commits_but_the_answer_is_lost(connection=None):
        with real(connection) as opened:
            yield opened
        raise StoreError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, "begin", commits_but_the_answer_is_lost)
        with pytest.raises(StoreError, match="connection lost"):
            log.append(KIND, n=2)
    log.append(KIND, n=3)
    assert [event.body["n"] for event in log.events()] == [1, 2, 3]
    assert len({event.writer for event in log.events()}) == 2
    assert verify_audit(store).ok


@given(
    st.dictionaries(
        st.text(max_size=4),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
        max_size=5,
    ),
    st.text(max_size=5) | st.none(),
)
def test_a_body_spelled_field_by_field_is_the_json_of_the_whole(body, session):
    text = spell_body(spell_fields(body))
    assert text == json.dumps(body, sort_keys=True, separators=(",", ":"))
    own = ("w", 1, "2026-01-01T00:00:00.000000+00:00", KIND.value)
    subject = AuditSubject(session_id=session)
    header = dict(zip(HEADER_FIELDS, (*own, *subject.columns), strict=True))
    assert subject.event_hash(own, text, "sha256:0") == event_hash(header, text, "sha256:0")


def test_threads_that_write_at_once_write_chains_of_their_own(store, log):
    threads = [
        threading.Thread(target=lambda: [log.append(KIND) for _ in range(20)]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verification = verify_audit(store)
    assert verification.ok, verification
    assert verification.events == 120
    assert 1 <= verification.writers <= 6


def test_a_forked_child_writes_a_chain_of_its_own(store, log):
    log.append(KIND, who="parent")
    pid = os.fork()
    if pid == 0:
        try:
            log.append(KIND, who="child")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    log.append(KIND, who="parent")
    chains = {}
    for event in log.events():
        chains.setdefault(event.writer, []).append(event.body["who"])
    assert sorted(chains.values()) == [["child"], ["parent", "parent"]]
    assert verify_audit(store).ok


WRITE = """
import sys
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.audit import AuditLog
uri, me = sys.argv[1:]
log = AuditLog(Store.open(uri), checkpoint_every=5)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    log.append("tool_call_decided", session_id=me, number=number)
log.close()
print("done")
"""


def test_processes_write_chains_of_their_own_side_by_side(store, store_uri, race):
    race(WRITE, store_uri)
    verification = verify_audit(store)
    assert verification.ok, verification
    assert (verification.events, verification.writers, verification.unsealed) == (160, 4, 0)
    log = AuditLog(store)
    for number in range(4):
        events = log.events(session_id=f"p{number}")
        assert [event.body["number"] for event in events] == list(range(40))


WRITE_UNTIL_KILLED = """
import sys
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust.audit import AuditLog
log = AuditLog(Store.open(sys.argv[1]), checkpoint_every=7)
while True:
    with log.transaction() as transaction:
        first = transaction.append("tool_call_started")
        second = transaction.append("tool_call_finished")
    print(first, second, flush=True)
"""


@pytest.mark.parametrize("events_before", [2, 13, 40])
def test_a_killed_writer_loses_no_acknowledged_event_and_leaves_an_intact_chain(
    store, store_uri, spawn, events_before
):
    process = spawn(WRITE_UNTIL_KILLED, store_uri)
    acknowledged = [process.stdout.readline() for _ in range(events_before)]
    process.kill()
    acknowledged += process.stdout.readlines()
    whole = [line for line in acknowledged if line.endswith("\n")]
    ids = {name for line in whole for name in line.split()}
    events = AuditLog(store).events()
    assert ids <= {event.event_id for event in events}
    assert len(events) % 2 == 0, "a transaction is whole"
    assert len(events) - len(ids) <= 2, "at most the transaction it died in"
    verification = verify_audit(store)
    assert verification.ok, verification


def test_a_checkpoint_that_fails_leaves_the_chains_to_the_next_one(store, log, monkeypatch):
    for _ in range(3):
        log.append(KIND)

    def fail(*_):
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(log, "_seal", fail)
        with pytest.raises(StoreError, match="away"):
            log.checkpoint()
    log.checkpoint()
    found = verify_audit(store)
    assert (found.ok, found.writers, found.unsealed) == (True, 1, 0)
