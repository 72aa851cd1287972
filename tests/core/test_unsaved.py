"""Session state in a running turn: it shares the audit's commits, and never lags behind an effect."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from helpers.shelf_agent import call, say

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.checkpoints import close_checkpointer, open_checkpointer
from mlflow_agent_plugin.core.unsaved import UnsavedState, unsaved_state
from mlflow_agent_plugin.entities import Actor, AgentRequest, Outcome
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.store import Store

ANN = Actor(user="ann")
WARDEN = Actor(user="walt", roles=frozenset({"warden"}))


@pytest.fixture
def store(request, tmp_path):
    """Open a store on sqlite, or on what `both` says."""
    uri = f"sqlite:///{tmp_path}/store.db"
    if "store_uri" in request.fixturenames:
        uri = request.getfixturevalue("store_uri")
    with Store.open(uri) as opened:
        yield opened


both = pytest.mark.usefixtures("store_uri")
"""On sqlite and on PostgreSQL."""


@pytest.fixture
def saver(store):
    opened = open_checkpointer(store)
    yield opened
    close_checkpointer(opened)


@pytest.fixture
def elsewhere(store):
    """Return what another process would read of a session: its messages, newest state."""
    opened = open_checkpointer(store)
    yield lambda session_id: [
        message.content or message.tool_calls[0]["id"]
        for message in (_state(opened, session_id) or {}).get("messages", [])
    ]
    close_checkpointer(opened)


def _state(saver, session_id):
    found = saver.get_tuple({"configurable": {"thread_id": session_id, "checkpoint_ns": ""}})
    return None if found is None else found.checkpoint["channel_values"]


def put(saver, session_id, value, *, namespace=""):
    """Save one small state, as LangGraph would."""
    from langgraph.checkpoint.base import empty_checkpoint

    state, versions = empty_checkpoint(), {"said": uuid.uuid4().hex}
    state["channel_values"], state["channel_versions"] = {"said": [value]}, versions
    config = {"configurable": {"thread_id": session_id, "checkpoint_ns": namespace}}
    made = saver.put(config, state, {"source": "loop", "step": 1}, versions)
    saver.put_writes(made, [("said", [value])], uuid.uuid4().hex)
    return made


def said(store, session_id):
    """Read as another process would."""
    other = open_checkpointer(store)
    try:
        found = _state(other, session_id)
    finally:
        close_checkpointer(other)
    return None if found is None else found["said"]


def commit(state, store):
    with state.saving() as save, store.begin() as connection:
        save(connection)


def fail(state, store):
    with state.saving() as save, store.begin() as connection:
        save(connection)
        raise ZeroDivisionError


def test_outside_a_turn_a_write_is_durable_when_it_returns(saver, store):
    put(saver, "s1", "hello")
    assert said(store, "s1") == ["hello"]


@both
def test_in_a_turn_a_write_waits_for_the_transaction_that_saves_it(saver, store):
    with unsaved_state(saver, store, "s1") as state:
        put(saver, "s1", "first")
        put(saver, "s2", "of a session without a turn")
        assert said(store, "s1") is None
        assert said(store, "s2") == ["of a session without a turn"]
        commit(state, store)
        assert said(store, "s1") == ["first"]
        put(saver, "s1", "second")
        assert said(store, "s1") == ["first"]
        commit(state, store)
    assert said(store, "s1") == ["second"]


def test_a_saved_state_has_the_writes_of_its_tasks(saver, store):
    with unsaved_state(saver, store, "s1") as state:
        made = put(saver, "s1", "x")
        commit(state, store)
    assert [write[1:] for write in saver.get_tuple(made).pending_writes] == [("said", ["x"])]


@both
def test_a_transaction_that_fails_leaves_everything_for_the_next(saver, store):
    with unsaved_state(saver, store, "s1") as state:
        put(saver, "s1", "kept")
        with pytest.raises(ZeroDivisionError):
            fail(state, store)
        assert said(store, "s1") is None
        commit(state, store)
    assert said(store, "s1") == ["kept"]


def test_a_reader_in_the_turn_gets_what_waits_where_it_looks(saver, store):
    with unsaved_state(saver, store, "s1"):
        put(saver, "s1", "of a part", namespace="part")
        assert _state(saver, "s1") is None
        put(saver, "s1", "of the whole")
        assert _state(saver, "s1")["said"] == ["of the whole"]
        listed = [{"configurable": {"thread_id": "s1"}}, None]
        assert [len(list(saver.list(config))) for config in listed] == [2, 2]


def test_a_turn_that_outlived_its_lease_shares_with_the_one_that_took_over(saver, store):
    with unsaved_state(saver, store, "s1") as old, unsaved_state(saver, store, "s1"):
        put(saver, "s1", "from either")
        commit(old, store)
        assert said(store, "s1") == ["from either"]


def test_state_kept_in_another_database_is_never_held_back(saver, tmp_path):
    with (
        Store.open(f"sqlite:///{tmp_path}/other.db") as other,
        unsaved_state(saver, other, "s1") as state,
    ):
        put(saver, "s1", "there at once")
        assert type(state) is UnsavedState
        assert _state(saver, "s1")["said"] == ["there at once"]


@both
def test_when_a_tool_runs_the_call_it_answers_is_on_disk(shelf, store, elsewhere):
    seen = {}

    def looking(name, function):
        def run(context, **arguments):
            seen[name] = elsewhere("s1")
            return function(context, **arguments)

        return run

    bundle = shelf(call("look", "lamp", "c1"), call("put", "lamp", "c2"), say("done"))
    with AgentRuntime.open(bundle, store=store, tracing=False, tool_wrapper=looking) as runtime:
        runtime.invoke(AgentRequest(text="go", session_id="s1", actor=ANN))
    assert seen["look"] == ["go", "c1"]
    assert seen["put"][:2] == ["go", "c1"]
    assert seen["put"][-1] == "c2"


def test_a_call_put_before_a_reviewer_is_in_the_session_it_goes_on_in(shelf, store, elsewhere):
    bundle = shelf(call("burn", "map", "c1"), say("done"))
    with AgentRuntime.open(bundle, store=store, tracing=False) as runtime:
        asked = runtime.approvals.request
        at_the_request = []

        def request(*args, **more):
            made = asked(*args, **more)
            connection = more["transaction"].connection
            found = connection.exec_driver_sql("SELECT count(*) FROM checkpoints").scalar()
            at_the_request.append(found)
            return made

        runtime.approvals.request = request
        reply = runtime.invoke(AgentRequest(text="go", session_id="s1", actor=ANN))
        assert reply.outcome is Outcome.WAITING_APPROVAL
        assert at_the_request[0] > 0, "the approval could be there without the session"
        assert elsewhere("s1") == ["go", "c1"]
        runtime.approvals.request = asked
        runtime.approvals.approve(reply.approvals[0].approval_id, WARDEN)
        done = runtime.invoke(AgentRequest(text="", session_id="s1", actor=ANN, resume=True))
    assert done.text == "done"


def test_a_turn_that_failed_has_left_its_state_and_its_session(shelf, store, elsewhere):
    bundle = shelf(call("look", "lamp", "c1"))  # the script ends where the answer should be
    with AgentRuntime.open(bundle, store=store, tracing=False) as runtime:
        for _ in range(2):
            with pytest.raises(AgentError, match="the script has 1 replies"):
                runtime.invoke(AgentRequest(text="go", session_id="s1", actor=ANN))
    assert elsewhere("s1")[:2] == ["go", "c1"]


def test_a_turn_commits_nothing_of_its_own_for_its_state(shelf, tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        saver = open_checkpointer(store)
        before = saver.conn.total_changes
        bundle = shelf(call("look", "lamp", "c1"), call("put", "lamp", "c2"), say("done"))
        with AgentRuntime.open(bundle, store=store, checkpointer=saver, tracing=False) as runtime:
            for session in ("s1", "s2"):
                runtime.invoke(AgentRequest(text="go", session_id=session, actor=ANN))
        assert saver.conn.total_changes == before
        close_checkpointer(saver)


def test_a_store_in_memory_keeps_its_sessions_there_too():
    with Store.open("sqlite://") as store:
        saver = open_checkpointer(store)
        put(saver, "s1", "hello")
        with store.read() as connection:
            rows = connection.exec_driver_sql("SELECT thread_id FROM checkpoints").all()
        assert rows == [("s1",)]
        name = store.engine.url.database.removeprefix("file:")
        assert not Path(name).exists(), "it was a file at the root of the disk"
        close_checkpointer(saver)
