"""A kill switch stops in every process within a second, and cannot be missed."""

from __future__ import annotations

import time

import pytest

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import RequestError, StoppedError, StoreError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import AuditKind, AuditLog, SwitchBoard, verify_audit

OLGA = Actor("olga", roles=frozenset({"operator"}))


@pytest.fixture
def board(memory_store, clock):
    return SwitchBoard(memory_store, clock=clock)


def check(board, tool="pay", agent="bank", tenant="acme"):
    board.check(agent=agent, tenant=tenant, tool=tool)


def test_nothing_is_stopped_at_first(board):
    check(board)
    assert board.list() == []


@pytest.mark.parametrize(
    ("kind", "name"), [("tool", "pay"), ("tool", "bank/pay"), ("agent", "bank"), ("tenant", "acme")]
)
def test_what_is_stopped_is_refused_until_it_is_started_again(board, kind, name):
    board.stop(kind, name, reason="it leaks", by=OLGA)
    with pytest.raises(StoppedError, match="stopped") as refusal:
        check(board)
    assert "leaks" not in str(refusal.value), "reasons are for operators"
    board.start(kind, name, reason="mended", by=OLGA)
    check(board)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tool", "get"), ("tool", "shop/pay"), ("agent", "pay"), ("tenant", "bank"), ("tool", "PAY")],
)
def test_a_switch_stops_nothing_else(board, kind, name):
    board.stop(kind, name, reason="it leaks", by=OLGA)
    check(board)


def test_an_agent_without_a_tool_call_is_not_stopped_by_a_switch_of_a_tool(board):
    board.stop("tool", "pay", reason="x", by=OLGA)
    board.check(agent="bank", tenant="acme")


def test_each_change_is_audited_with_who_and_why(board, memory_store):
    board.stop("tenant", "acme", reason="unpaid", by=OLGA)
    board.start("tenant", "acme", reason="paid", by=OLGA)
    events = AuditLog(memory_store).events()
    assert [event.kind for event in events] == [AuditKind.SWITCH_STOPPED, AuditKind.SWITCH_STARTED]
    assert events[0].actor == "olga"
    assert (events[0].body["name"], events[0].body["reason"]) == ("acme", "unpaid")
    assert verify_audit(memory_store).ok


def test_the_list_says_what_is_stopped_since_when_and_why(board, clock):
    board.stop("tool", "pay", reason="twice", by=OLGA)
    board.stop("agent", "bank", reason="drift", by=OLGA)
    board.start("agent", "bank", reason="fine", by=OLGA)
    (found,) = board.list()
    assert (found.name, found.reason, found.changed_by) == ("pay", "twice", "olga")
    assert found.changed_at == clock.time
    assert {item.name for item in board.list(everything=True)} == {"pay", "bank"}


def test_starting_what_is_not_stopped_is_an_error_and_leaves_no_event(board, memory_store):
    with pytest.raises(RequestError, match="is not stopped"):
        board.start("agent", "bank", reason="x", by=OLGA)
    assert AuditLog(memory_store).events() == []


@pytest.mark.parametrize("text", ["", "  ", "x" * 1025, None, 7])
@pytest.mark.parametrize("field", ["name", "reason"])
def test_a_name_or_reason_that_is_no_text_is_refused(board, field, text):
    given = {"name": "pay", "reason": "why", field: text}
    with pytest.raises(RequestError, match=field):
        board.stop("tool", given["name"], reason=given["reason"], by=OLGA)


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", "é😀", "x'; DROP TABLE agent_switches;--"])
def test_a_hostile_tenant_can_be_stopped_by_the_name_it_carries(store, name):
    board = SwitchBoard(store)
    board.stop("tenant", name, reason="hostile", by=OLGA)
    with pytest.raises(StoppedError):
        check(board, tenant=name)
    check(board, tenant="other")


def test_a_worker_looks_again_after_half_a_second(memory_store, clock):
    now = [0.0]
    here = SwitchBoard(memory_store, clock=clock, monotonic=lambda: now[0])
    there = SwitchBoard(memory_store, clock=clock)
    check(here)
    there.stop("agent", "bank", reason="x", by=OLGA)
    check(here)
    now[0] = 0.51
    with pytest.raises(StoppedError):
        check(here)


def test_a_store_that_cannot_be_read_means_stopped_and_its_return_needs_no_restart(
    memory_store, monkeypatch
):
    now = [0.0]
    board = SwitchBoard(memory_store, monotonic=lambda: now[0])
    check(board)
    now[0] = 10.0

    def away():
        raise StoreError("connection refused", where="store")

    with monkeypatch.context() as patch:
        patch.setattr(memory_store, "read", away)
        for _ in range(2):
            with pytest.raises(StoppedError, match="cannot be known"):
                check(board)
    check(board)


WATCH = """
import sys, time
from mlflow_agent_plugin.errors import StoppedError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import SwitchBoard
with Store.open(sys.argv[1]) as store:
    board = SwitchBoard(store)
    board.check(agent="bank", tenant="acme")
    print("ready", flush=True)
    until = time.monotonic() + 120
    allowed = 0.0
    while time.monotonic() < until:
        begun = time.time()
        try:
            board.check(agent="bank", tenant="acme")
            allowed = begun
        except StoppedError:
            print(allowed, flush=True)
            break
"""


def test_no_check_begun_a_second_after_a_stop_is_allowed_in_any_process(store_uri, spawn):
    with Store.open(store_uri) as store:
        workers = [spawn(WATCH, store_uri) for _ in range(2)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n", worker.stderr.read()
        board = SwitchBoard(store)
        board.stop("agent", "bank", reason="x", by=OLGA)
        thrown = time.time()
        for worker in workers:
            out, error = worker.communicate(timeout=180)
            assert worker.returncode == 0, error
            assert out, "the switch was never seen"
            assert float(out) - thrown < 1.0


def test_two_that_switch_at_once_leave_one_answer_and_both_events(store_uri, race):
    script = """
import sys
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import SwitchBoard
with Store.open(sys.argv[1]) as store:
    board = SwitchBoard(store)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(5):
        board.stop("agent", "bank", reason=f"{sys.argv[2]} {number}", by=Actor(sys.argv[2]))
    print("done")
"""
    with Store.open(store_uri) as store:
        race(script, store_uri, processes=3)
        (found,) = SwitchBoard(store).list()
        events = AuditLog(store).events(kind=AuditKind.SWITCH_STOPPED)
        assert len(events) == 15
        assert verify_audit(store).ok
        assert found.reason in {event.body["reason"] for event in events}


def test_a_child_of_a_fork_reads_for_itself(tmp_path, spawn):
    script = """
import os, sys
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import StoppedError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import SwitchBoard
with Store.open(sys.argv[1]) as store:
    board = SwitchBoard(store)
    board.check(agent="bank", tenant="acme")
    SwitchBoard(store).stop("agent", "bank", reason="x", by=Actor("o"))
    child = os.fork()
    if child == 0:
        try:
            board.check(agent="bank", tenant="acme")
        except StoppedError:
            os._exit(0)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = spawn(script, f"sqlite:///{tmp_path}/fork.db")
    out, error = process.communicate(timeout=60)
    assert out.strip() == "0", error
