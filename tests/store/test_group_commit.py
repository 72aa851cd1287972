"""Threads that write to SQLite at once share commits, and nothing else."""

# ruff: noqa: PT012 - what raises is a whole transaction

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.group_commit import GroupCommit

INSERT = text("INSERT INTO notes VALUES (:n)")


@pytest.fixture
def notes(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/agents.db") as store:
        with store.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE notes (n INTEGER PRIMARY KEY)")
        yield store


def kept(store):
    with store.read() as connection:
        return sorted(connection.scalars(text("SELECT n FROM notes")))


class Company:
    """Writes notes from threads that all queue while the first of them is in its block."""

    def __init__(self, store):
        self.store = store
        self.outcomes = {}
        self.all_wait = threading.Event()
        self.inside = threading.Event()

    def write(self, number, *, fail=False):
        try:
            with self.store.begin() as connection:
                connection.execute(INSERT, {"n": number})
                if number == 0:
                    self.inside.set()
                    self.all_wait.wait(10)
                _ = 1 / (0 if fail else 1)
        except (ZeroDivisionError, StoreError) as error:
            self.outcomes[number] = type(error).__name__
        else:
            self.outcomes[number] = "committed"

    def run(self, count, failing=()):
        threads = [
            threading.Thread(target=self.write, args=(n,), kwargs={"fail": n in failing})
            for n in range(count)
        ]
        threads[0].start()
        assert self.inside.wait(10)
        for thread in threads[1:]:
            thread.start()
        group = self.store._group
        while group._waiting < count - 1:
            threading.Event().wait(0.001)
        self.all_wait.set()
        for thread in threads:
            thread.join(30)
        return self.outcomes


@pytest.fixture
def commits(monkeypatch):
    """List the number of blocks in each commit."""
    sizes = []
    real = GroupCommit._end

    def end(self, commit, error=None):
        sizes.append(commit.blocks)
        real(self, commit, error)

    monkeypatch.setattr(GroupCommit, "_end", end)
    return sizes


def test_threads_that_queue_share_one_commit(notes, commits):
    outcomes = Company(notes).run(8)
    assert set(outcomes.values()) == {"committed"}
    assert kept(notes) == list(range(8))
    assert sum(commits) == 8
    assert len(commits) < 8


def test_a_block_that_raises_in_a_shared_commit_undoes_only_itself(notes):
    outcomes = Company(notes).run(6, failing={0, 3, 5})
    assert {n for n, outcome in outcomes.items() if outcome == "committed"} == {1, 2, 4}
    assert kept(notes) == [1, 2, 4]


def test_a_commit_that_fails_failed_for_every_block_in_it(notes, monkeypatch):
    def refuse(connection):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow_agent_plugin.store.group_commit._check_open", refuse)
        outcomes = Company(notes).run(4)
    assert set(outcomes.values()) == {"StoreError"}
    assert kept(notes) == []
    Company(notes).run(2)
    assert kept(notes) == [0, 1]


def test_a_block_whose_transaction_the_database_ended_by_itself_is_not_told_it_is_committed(notes):
    with pytest.raises(StoreError, match="rolled the transaction back"), notes.begin() as opened:
        opened.execute(INSERT, {"n": 1})
        opened.connection.dbapi_connection.execute("ROLLBACK")
    assert kept(notes) == []


def test_a_commit_is_not_lost_when_the_thread_that_was_to_join_never_comes(notes, monkeypatch):
    # A waiter that gives up is counted until it has: the block before it relies on it, and must
    # still be committed.
    group = notes._group
    group._waiting += 1
    try:
        with notes.begin() as connection:
            connection.execute(INSERT, {"n": 7})
    finally:
        group._waiting -= 1
    assert kept(notes) == [7]


def test_a_thread_alone_commits_at_once(notes, commits):
    for number in range(3):
        with notes.begin() as connection:
            connection.execute(INSERT, {"n": number})
    assert commits == [1, 1, 1]


def test_an_orm_session_joins_a_transaction_without_ending_it(notes):
    def write(number, *, roll_back=False):
        with notes.begin() as connection:
            session = Session(bind=connection, join_transaction_mode="rollback_only")
            session.execute(INSERT, {"n": number})
            if roll_back:
                session.rollback()
            session.close()

    write(1)
    write(2)
    with pytest.raises(StoreError, match="rolled the transaction back"):
        write(3, roll_back=True)
    write(4)
    assert kept(notes) == [1, 2, 4]
