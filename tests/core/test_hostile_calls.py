"""Whatever a model, a tool or a user says: no tool runs without an audited allow for that call."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from contextlib import suppress

import pytest
from helpers.growth import assert_linear
from helpers.puppet_agent import PUPPET_GRAPH_PY
from helpers.scale import scaled
from helpers.shelf_agent import say
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.gateway.journal import auditable_arguments
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus, Outcome
from mlflow_agent_plugin.errors import AgentError, AgentRunError
from mlflow_agent_plugin.trust import AuditKind, AuditLog, verify_audit

ANN = Actor(user="ann")
WARDEN = Actor(user="walt", roles=frozenset({"warden"}))


class World:
    """Notes every run of a tool."""

    def __init__(self):
        self.runs = []

    def wrap(self, name, function):
        def run(context, **arguments):
            self.runs.append((context.idempotency_key, name, auditable_arguments(arguments)))
            if arguments.get("item") == "strange":
                return {
                    "ok": float("nan"),
                    "item": {"__entity": {"type": "Agent::User", "id": "x"}},
                }
            return {"ok": True, "item": str(arguments.get("item"))[:50]}

        return run


@pytest.fixture
def puppet(tmp_path):
    """Open an agent whose calls the user dictates; in the end its audit has to verify."""
    from helpers.shelf_agent import write_bundle
    from langgraph.checkpoint.memory import InMemorySaver

    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.store import Store

    folder, world = tmp_path, World()
    root = write_bundle(
        folder / "bundle", [say("-")], folder=folder / "shelf", graph=PUPPET_GRAPH_PY
    )
    with Store.open(f"sqlite:///{folder}/agents.db") as store:
        runtime = AgentRuntime.open(
            load_bundle(root),
            store=store,
            checkpointer=InMemorySaver(),
            tracing=False,
            tool_wrapper=world.wrap,
        )
        yield runtime, world
        runtime.close()
        verification = verify_audit(store)
        assert verification.ok, verification


def dictate(runtime, session, calls):
    return runtime.invoke(AgentRequest(json.dumps(calls), session, ANN))


def check(runtime, world, session):
    """Check that what ran in a session is what the audit allows, call for call."""
    audit = AuditLog(runtime.store)
    allowed, started = Counter(), Counter()
    for event in audit.events(session_id=session):
        body = event.body
        if event.kind == AuditKind.TOOL_CALL_DECIDED and body["decision"]["value"] == "allow":
            said = json.dumps(body["arguments"], sort_keys=True)
            allowed[f"{session}:{body['call_id']}", body["tool"], said] += 1
        if event.starts_tool:
            started[f"{session}:{body['call_id']}", body["tool"]] += 1
    ran = Counter(
        (key, tool, json.dumps(arguments, sort_keys=True))
        for key, tool, arguments in world.runs
        if key.startswith(f"{session}:")
    )
    for run, count in ran.items():
        assert count <= allowed[run], f"{run} ran {count} times, allowed {allowed[run]} times"
        assert count <= started[run[:2]]
    writes = Counter((key, tool) for key, tool, _ in ran.elements() if tool in ("put", "burn"))
    assert set(writes.values()) <= {1}, writes


VALUES = st.one_of(
    st.sampled_from(["lamp", "gold", "GOLD", "strange", "ℊold", "lamp\u202egold", "", "__entity"]),
    st.sampled_from([f"make:{n}" for n in ("nan", "inf", "huge", "surrogate", "deep", "list")]),
    st.text(max_size=8),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
    st.dictionaries(st.sampled_from(["__entity", "__extn", "type", "id"]), st.text(max_size=3)),
)
IDS = st.sampled_from(["a", "b", "c", ""])
TOOLS = st.sampled_from(["look", "put", "burn", "burn", "read_mail"])
ITEMS = st.sampled_from(["lamp", "map", "gold", "strange", "please burn the house"])
USUAL = st.fixed_dictionaries(
    {"name": TOOLS, "args": st.fixed_dictionaries({"item": ITEMS}), "id": IDS},
)
STRANGE = st.fixed_dictionaries(
    {
        "name": st.sampled_from(
            ["look", "put", "burn", "read_mail", "rm", "Put", "put ", "", "__proto__"]
        ),
        "args": st.dictionaries(
            st.sampled_from(["item", "amount", "__entity", "context", "approved", ""]),
            VALUES,
            max_size=3,
        ),
        "id": IDS,
    }
)
UNREAD = st.fixed_dictionaries(
    {
        "name": TOOLS,
        "raw": st.one_of(
            st.sampled_from(
                [
                    "{item:", '{"item": "lamp"', '{"item": "lamp"}}', "[]", "null", '"lamp"', "",
                    '{"item": "lamp", "item": "gold"}', '{"item": NaN}', "7", '{"item": "\\ud800"}',
                    '{"item": "lamp"} {"item": "gold"}', "{'item': 'lamp'}", "[" * 2000,
                ]
            ),
            st.text(max_size=20),
        ),
        "id": IDS,
    }
)  # fmt: skip
CALLS = st.lists(st.one_of(USUAL, STRANGE, UNREAD), min_size=1, max_size=3)
ANSWERS = st.sampled_from(["approve", "reject", "edit", "edit badly", "nothing"])
EDITS = {"edit": {"item": "vase"}, "edit badly": {"item": 7, "__entity": {}}}
BURN = [{"name": "burn", "args": {"item": "map"}, "id": "a"}]


def answer(runtime, session, how):
    """Answer what waits; return whether every answer was taken."""
    taken = True
    for waiting in runtime.waiting(session):
        try:
            if how == "approve":
                runtime.approvals.approve(waiting.approval_id, WARDEN)
            elif how == "reject":
                runtime.approvals.reject(waiting.approval_id, WARDEN, "no")
            elif how in EDITS:
                runtime.approvals.edit(waiting.approval_id, WARDEN, EDITS[how], "rather this")
        except AgentError:
            taken = False  # an answer that breaks a rule is refused; the call goes on waiting
    return taken


def talk(runtime, session, turns):
    """Go through the turns; return what became of the calls of those that went through."""
    statuses = []
    for calls, how in turns:
        try:
            reply = dictate(runtime, session, calls)
            if reply.outcome is Outcome.WAITING_APPROVAL:
                answer(runtime, session, how)
                reply = runtime.invoke(AgentRequest("", session, ANN, resume=True))
        except AgentError:
            continue  # a turn may fail; it must not fail open
        statuses.append([call.status for call in reply.calls])
    return statuses


@settings(max_examples=scaled(40, 1000), deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.tuples(CALLS, ANSWERS), min_size=1, max_size=4))
def test_no_sequence_of_calls_and_answers_runs_a_tool_without_an_audited_allow(puppet, turns):
    runtime, world = puppet
    session = uuid.uuid4().hex
    talk(runtime, session, turns)
    check(runtime, world, session)


@pytest.mark.parametrize(
    ("how", "status", "runs"),
    [
        ("approve", "executed", ["map"]),
        ("edit", "executed", ["vase"]),
        ("edit badly", "invalid", []),
        ("reject", "rejected", []),
        ("nothing", "waiting_approval", []),
    ],
)
def test_every_answer_the_sequences_above_draw_is_one_that_counts(puppet, how, status, runs):
    runtime, world = puppet
    session = uuid.uuid4().hex
    assert talk(runtime, session, [(BURN, how)]) == [[CallStatus(status)]]
    assert [arguments["item"] for _, _, arguments in world.runs] == runs
    check(runtime, world, session)


def test_the_same_call_twice_in_one_step_runs_once(puppet, monkeypatch):
    runtime, world = puppet
    session, both = uuid.uuid4().hex, threading.Barrier(2)
    kept = world.runs

    class Meeting(list):
        def append(self, run):
            kept.append(run)
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)  # for the other run, which must not come

    monkeypatch.setattr(world, "runs", Meeting())
    calls = [{"name": "put", "args": {"item": "lamp"}, "id": "a"}] * 2
    dictate(runtime, session, calls)
    monkeypatch.setattr(world, "runs", kept)
    assert len(kept) == 1
    check(runtime, world, session)


def test_arguments_of_a_call_that_are_no_object_run_nothing(puppet):
    runtime, world = puppet
    session = uuid.uuid4().hex
    for number, raw in enumerate(["[]", "null", '"lamp"', "7", "{item:", '["item", "lamp"]']):
        calls = [{"name": "put", "raw": raw, "id": f"c{number}"}]
        statuses = talk(runtime, session, [(calls, "nothing")])
        assert CallStatus.EXECUTED not in [status for turn in statuses for status in turn], raw
    assert world.runs == []
    check(runtime, world, session)


@pytest.mark.parametrize("value", ["nan", "inf", "huge", "surrogate", "megabyte", "deep", "list"])
def test_an_argument_no_contract_can_hold_is_refused_and_the_agent_goes_on(puppet, value):
    runtime, world = puppet
    session, before = uuid.uuid4().hex, len(world.runs)
    for arguments in ({"item": f"make:{value}"}, {"item": "lamp", "x": f"make:{value}"}):
        call_id = uuid.uuid4().hex
        try:
            reply = dictate(runtime, session, [{"name": "put", "args": arguments, "id": call_id}])
        except AgentRunError:
            session = uuid.uuid4().hex  # no checkpoint can hold such a state: the turn fails
        else:
            assert [call.status for call in reply.calls] == [CallStatus.INVALID]
    assert len(world.runs) == before
    ran = dictate(runtime, session, [{"name": "put", "args": {"item": "ok"}, "id": "last"}])
    assert [call.status for call in ran.calls] == [CallStatus.EXECUTED]
    check(runtime, world, session)


@pytest.mark.parametrize("levels", [100, 300, 480, 700, 900])
def test_arguments_of_any_depth_are_refused_and_on_record(puppet, levels):
    runtime, world = puppet
    session = uuid.uuid4().hex
    call = {"name": "put", "args": {"item": f"make:{levels} levels"}, "id": "d"}
    try:
        reply = dictate(runtime, session, [call])
    except AgentRunError:
        pass  # no checkpoint can hold such a state: the turn fails
    else:
        assert [call.status for call in reply.calls] == [CallStatus.INVALID]
        (event,) = AuditLog(runtime.store).events(session_id=session, kind="tool_call_finished")
        assert event.body["arguments"]
    assert world.runs == []
    check(runtime, world, session)


def test_an_argument_is_judged_in_time_linear_in_its_length(puppet):

    runtime, world = puppet
    words = " ".join(f"word{n}.example.com/{n}" for n in range(10_000))
    mail = [{"name": "read_mail", "args": {"item": "lamp"}, "id": "m"}]
    largest = min(runtime._settings.max_message_chars - 100, 250_000)

    def judge(size):
        session = uuid.uuid4().hex
        dictate(runtime, session, mail)
        dictate(runtime, session, [{"name": "put", "args": {"item": words[:size]}, "id": "w"}])
        check(runtime, world, session)

    assert_linear(judge, largest // 4)


def test_an_output_that_is_no_json_is_the_tools_fault_and_the_effect_stays_once(puppet):
    runtime, world = puppet
    session = uuid.uuid4().hex
    for _ in range(2):
        reply = dictate(runtime, session, [{"name": "put", "args": {"item": "strange"}, "id": "s"}])
        assert [call.status for call in reply.calls] == [CallStatus.FAILED]
        assert "breaks the tool's own contract" in reply.calls[0].error
    assert [run[0] for run in world.runs].count(f"{session}:s") == 1
    check(runtime, world, session)
