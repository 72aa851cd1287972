"""A session is one actor's, and runs one turn at a time."""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta, timezone

import pytest

from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.errors import RequestError, SessionBusyError, SessionNotFoundError
from mlflow_agent_plugin.store import SessionTable, Store

EVE = Actor("eve", "bank", frozenset({"customer"}), verified=True)


class Now:
    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def table(store, now):
    return SessionTable(store, clock=now)


@pytest.mark.parametrize("session_id", ["", "x" * 201, "a\x00b", "a\nb", "\ud800", None, 7])
def test_what_cannot_name_a_session_is_a_request_error(table, session_id):
    with pytest.raises(RequestError, match="session_id"):
        table.open(session_id, EVE, "support", "d1")
    with pytest.raises(RequestError, match="session_id"):
        table.require(session_id, EVE)


def test_an_unknown_session_is_not_found(table):
    with pytest.raises(SessionNotFoundError):
        table.require("nowhere", EVE)
    with pytest.raises(SessionNotFoundError):
        table.acquire_lease("nowhere", "w", 60)
    with pytest.raises(SessionBusyError):
        table.renew("nowhere", "w", 60)
    assert table.release("nowhere", "w") is False


@pytest.mark.parametrize(
    "stranger",
    [
        Actor("eve", "other-bank", verified=True),
        Actor("bob", "bank", verified=True),
        Actor("eve", "bank", verified=False),
        ANONYMOUS,
    ],
    ids=["other tenant", "other user", "same name, not verified", "anonymous"],
)
def test_somebody_elses_session_does_not_exist(table, stranger):
    table.open("s", EVE, "support", "d1")
    for attempt in (
        lambda: table.require("s", stranger),
        lambda: table.open("s", stranger, "support", "d1"),
    ):
        with pytest.raises(SessionNotFoundError) as caught:
            attempt()
        with pytest.raises(SessionNotFoundError) as unknown:
            table.require("t", stranger)
        assert str(caught.value).replace("session s", "session t") == str(unknown.value)
    assert table.require("s", EVE).user == "eve"


def test_a_verified_user_does_not_walk_into_a_session_somebody_unverified_prepared(table):
    table.open("s", Actor("eve", "bank"), "support", "d1")
    with pytest.raises(SessionNotFoundError):
        table.open("s", EVE, "support", "d1")


def test_a_session_does_not_move_to_another_agent(table):
    table.open("s", EVE, "support", "d1")
    with pytest.raises(SessionNotFoundError):
        table.open("s", EVE, "triage", "d1")


def test_roles_may_change_between_turns(table):
    table.open("s", EVE, "support", "d1")
    assert table.require("s", Actor("eve", "bank", frozenset(), verified=True)).session_id == "s"


def test_a_new_version_of_the_agent_continues_a_session(table, now):
    first = table.open("s", EVE, "support", "d1")
    now.advance(5)
    second = table.open("s", EVE, "support", "d2")
    assert (first.agent_digest, second.agent_digest) == ("d1", "d2")
    assert second.created_at == first.created_at
    assert second.last_at == now()


def test_one_turn_at_a_time(table):
    table.open("s", EVE, "support", "d1")
    assert table.acquire_lease("s", "turn-1", 60).turn == 1
    for owner in ("turn-2", "turn-1"):
        with pytest.raises(SessionBusyError):
            table.acquire_lease("s", owner, 60)
    assert table.release("s", "turn-2") is False
    assert table.release("s", "turn-1") is True
    assert table.acquire_lease("s", "turn-2", 60).turn == 2


def test_a_lease_that_ran_out_can_be_taken_and_its_holder_finds_out(table, now):
    table.open("s", EVE, "support", "d1")
    table.acquire_lease("s", "dead", 60)
    now.advance(59)
    with pytest.raises(SessionBusyError):
        table.acquire_lease("s", "next", 60)
    now.advance(1)
    assert table.acquire_lease("s", "next", 60).turn == 2
    with pytest.raises(SessionBusyError, match="lost its lease"):
        table.renew("s", "dead", 60)
    assert table.release("s", "dead") is False
    with pytest.raises(SessionBusyError):
        table.acquire_lease("s", "third", 60)


def test_a_renewed_lease_holds_longer_and_counts_no_turn(table, now):
    table.open("s", EVE, "support", "d1")
    table.acquire_lease("s", "w", 60)
    now.advance(50)
    table.renew("s", "w", 60)
    now.advance(50)
    with pytest.raises(SessionBusyError):
        table.acquire_lease("s", "x", 60)


def test_of_many_threads_one_gets_the_lease(table):
    table.open("s", EVE, "support", "d1")
    barrier, got = threading.Barrier(8), []

    def compete(owner):
        barrier.wait()
        with contextlib.suppress(SessionBusyError):
            got.append(table.acquire_lease("s", owner, 60))

    threads = [threading.Thread(target=compete, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


COMPETE = """
import sys
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import SessionBusyError
from mlflow_agent_plugin.store import SessionTable, Store
table = SessionTable(Store.open(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
won = 0
for number in range(25):
    try:
        table.acquire_lease(f"s{number}", sys.argv[2], 600)
        won += 1
    except SessionBusyError:
        pass
print(won)
"""


def test_of_four_processes_one_gets_each_lease(store_uri, table, spawn):
    for number in range(25):
        table.open(f"s{number}", EVE, "support", "d1")
    # The table's clock stands in the past: no lease of the processes has run out before.
    processes = [spawn(COMPETE, store_uri, f"p{n}") for n in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 25


def test_a_tenant_lists_its_own_sessions_only_the_latest_first(table, now):
    table.open("a", EVE, "support", "d1")
    now.advance(1)
    table.open("b", EVE, "support", "d1")
    table.open("c", Actor("eve", "other"), "support", "d1")
    assert [record.session_id for record in table.list(tenant="bank")] == ["b", "a"]
    assert [record.session_id for record in table.list(tenant="bank", limit=1)] == ["b"]
    assert table.list(tenant="nobody") == []


def test_sessions_survive_reopening(store_uri):
    with Store.open(store_uri) as store:
        opened = SessionTable(store).open("s", EVE, "support", "d1")
    with Store.open(store_uri) as store:
        assert SessionTable(store).require("s", EVE) == opened
