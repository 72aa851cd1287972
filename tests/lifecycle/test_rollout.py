"""Rollouts in the store: which session goes where, what is counted, and who decides, once."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import Actor, AgentReply, CallStatus, Outcome, ToolCallRecord
from mlflow_agent_plugin.errors import (
    AgentRunError,
    IntegrityError,
    NotFoundError,
    QuotaExceededError,
    RequestError,
    SessionBusyError,
    UngovernedToolCallError,
)
from mlflow_agent_plugin.lifecycle.rollout import (
    Arm,
    RolloutBook,
    RolloutPlan,
    RolloutState,
    TurnVerdict,
    judge_error,
    judge_reply,
)
from mlflow_agent_plugin.lifecycle.rollout.plan import draw
from mlflow_agent_plugin.lifecycle.stopping import RolloutVerdict, RolloutWatch, StopRules
from mlflow_agent_plugin.store import SessionTable, Store
from mlflow_agent_plugin.trust import AuditLog

ANN = Actor("ann", verified=True)
GOOD, BAD = TurnVerdict(ended=True, success=True), TurnVerdict(ended=True, error=True)
QUICK = RolloutPlan(share=0.5, success_margin=0.4, error_margin=0.4, min_sessions=5)


@pytest.fixture
def store(store_uri):
    """A runtime store."""
    with Store.open(store_uri) as opened:
        yield opened


@pytest.fixture
def book(store):
    """Its rollouts."""
    return RolloutBook(store)


def start(book, plan=QUICK, model="support", digest="sha256:c"):
    return book.start(
        model, plan, incumbent_version=1, candidate_version=2, candidate_digest=digest, by=ANN
    )


def feed(book, rollout, sessions, candidate, incumbent=GOOD, prefix="s"):
    """Count sessions until something is decided; return the decision."""
    decision = None
    for number in range(sessions):
        session = f"{prefix}{number}"
        arm = book.assign(rollout, session)
        verdict = candidate if arm is Arm.CANDIDATE else incumbent
        decision = book.count(rollout.rollout_id, session, arm, verdict)
        if decision is None or decision.verdict is not RolloutVerdict.GO_ON:
            break
    return decision


# --- the split -----------------------------------------------------------------------------------


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_draw_depends_on_rollout_and_session_only(rollout, session):
    first = draw(rollout, session)
    assert 0 <= first < 1
    assert draw(rollout, session) == first


def test_the_share_of_new_sessions_is_the_share_asked_for():
    taken = sum(draw("rol-1", f"s{number}") < 0.1 for number in range(20_000))
    assert 0.09 < taken / 20_000 < 0.11


def test_a_session_stays_where_it_began(book):
    rollout = start(book)
    arms = {f"s{number}": book.assign(rollout, f"s{number}") for number in range(60)}
    assert set(arms.values()) == {Arm.INCUMBENT, Arm.CANDIDATE}
    assert {name: book.assign(rollout, name) for name in arms} == arms


def test_a_session_older_than_the_rollout_stays_with_the_incumbent_and_is_not_counted(store, book):
    SessionTable(store).open("old", ANN, "support", "sha256:i")
    rollout = start(book, QUICK.model_copy(update={"share": 1.0}))
    assert book.assign(rollout, "new") is Arm.CANDIDATE
    assert book.assign(rollout, "old") is Arm.INCUMBENT
    book.count(rollout.rollout_id, "old", Arm.INCUMBENT, GOOD)
    assert book.get(rollout.rollout_id).numbers["sessions"] == {"candidate": 0, "incumbent": 0}


def test_without_the_candidate_at_hand_a_new_session_is_the_incumbents_and_is_not_counted(book):
    rollout = start(book, QUICK.model_copy(update={"share": 1.0}))
    assert book.assign(rollout, "s", draws=False) is Arm.INCUMBENT
    assert book.assign(rollout, "s") is Arm.CANDIDATE  # nothing was kept
    assert book.assign(rollout, "s", draws=False) is Arm.CANDIDATE


# --- counting and deciding -----------------------------------------------------------------------


def test_one_rollout_is_open_per_model_and_slot(book):
    first = start(book)
    with pytest.raises(RequestError, match=first.rollout_id):
        start(book)
    start(book, model="other")
    book.stop(first.rollout_id, reason="enough", by=ANN)
    assert start(book).is_open


def test_a_session_is_counted_once(book):
    rollout = start(book)
    arm = book.assign(rollout, "s")
    for _ in range(5):
        book.count(rollout.rollout_id, "s", arm, GOOD)
    assert sum(book.get(rollout.rollout_id).numbers["sessions"].values()) == 1


def test_a_question_back_is_no_end(book):
    rollout = start(book)
    arm = book.assign(rollout, "s")
    assert book.count(rollout.rollout_id, "s", arm, TurnVerdict(ended=False)) is None
    assert book.count(rollout.rollout_id, "s", arm, GOOD) is not None


def test_a_failing_candidate_stops_and_nothing_more_is_counted(store, book):
    rollout = start(book)
    assert feed(book, rollout, 200, BAD).verdict is RolloutVerdict.STOP
    now = book.get(rollout.rollout_id)
    assert now.state is RolloutState.STOPPED
    assert "worse by more than" in now.reason
    assert now.registry_step.value == "retire"
    assert feed(book, now, 5, GOOD, prefix="late") is None
    kinds = [event.kind for event in AuditLog(store).events()]
    assert kinds == ["rollout_started", "rollout_decided"]
    assert AuditLog(store).verify().ok


def test_a_candidate_as_good_becomes_ready_and_may_still_be_stopped_by_an_incident(book):
    rollout = start(book)
    assert feed(book, rollout, 400, GOOD).verdict is RolloutVerdict.READY
    now = book.get(rollout.rollout_id)
    assert (now.state, now.registry_step.value) == (RolloutState.READY, "promote")
    book.report_incident(rollout.rollout_id, "told a secret", by=ANN)
    now = book.get(rollout.rollout_id)
    assert (now.state, now.reason) == (RolloutState.STOPPED, "safety incident: told a secret")


def test_where_nothing_is_to_follow_success_the_registry_is_not_asked(book):
    plan = RolloutPlan.model_validate({**QUICK.model_dump(), "on_success": "nothing"})
    rollout = start(book, plan)
    feed(book, rollout, 400, GOOD)
    now = book.get(rollout.rollout_id)
    assert (now.state, now.registry_step.value) == (RolloutState.READY, "")


def test_an_incident_of_the_incumbent_does_not_stop_the_candidate(book):
    rollout = start(book)
    unsafe = TurnVerdict(ended=False, incidents=("call past the gateway",))
    assert book.count(rollout.rollout_id, "s", Arm.INCUMBENT, unsafe) is None
    stopped = book.count(rollout.rollout_id, "s", Arm.CANDIDATE, unsafe)
    assert stopped.verdict is RolloutVerdict.STOP


def test_two_processes_that_see_the_last_straw_at_once_decide_once(store_uri):
    """Eight writers, each with a store of its own, over one rollout."""
    with Store.open(store_uri) as store:
        rollout = start(RolloutBook(store))
        books = [RolloutBook(Store.open(store_uri)) for _ in range(8)]
        gate = threading.Barrier(8)

        def run(index):
            gate.wait()
            feed(books[index], rollout, 40, BAD, prefix=f"w{index}-")

        threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert RolloutBook(store).get(rollout.rollout_id).state is RolloutState.STOPPED
        decided = AuditLog(store).events(kind="rollout_decided")
        assert len(decided) == 1
        counted = RolloutBook(store).get(rollout.rollout_id).numbers["sessions"]
        watch = RolloutWatch.from_dict(
            RolloutBook(store).get(rollout.rollout_id).numbers, rollout.rules
        )
        assert sum(counted.values()) == sum(watch.sessions.values()) > 10
        for book in books:
            book._store.close()


def test_a_watch_goes_on_in_another_process_as_if_nothing_had_happened():
    """After every session the state is written down and read again; the decisions are the same."""
    import random

    chance, rules = random.Random(3), StopRules(min_sessions=20)
    whole, parts = RolloutWatch(rules), RolloutWatch(rules)
    for _ in range(600):
        seen = {
            "candidate": chance.random() < 0.4,
            "success": chance.random() < 0.8,
            "error": chance.random() < 0.1,
        }
        first = whole.session(**seen)
        second = parts.session(**seen)
        assert first == second
        parts = RolloutWatch.from_dict(json.loads(json.dumps(parts.to_dict())), rules)
    assert parts.to_dict() == whole.to_dict()


def test_what_is_not_there_is_said(book):
    with pytest.raises(NotFoundError, match="no such rollout"):
        book.get("rol-x")
    with pytest.raises(NotFoundError):
        book.stop("rol-x", reason="why not", by=ANN)
    rollout = start(book)
    with pytest.raises(RequestError, match="reason"):
        book.stop(rollout.rollout_id, reason=" ", by=ANN)
    with pytest.raises(RequestError, match="kind"):
        book.report_incident(rollout.rollout_id, "", by=ANN)


# --- judging -------------------------------------------------------------------------------------


def reply(outcome, *statuses):
    calls = tuple(ToolCallRecord(f"c{n}", "burn", {}, status) for n, status in enumerate(statuses))
    return AgentReply("x", outcome, "s", "shelf", "sha256:d", calls=calls)


@pytest.mark.parametrize(
    ("outcome", "ended", "success", "error"),
    [
        (Outcome.ANSWERED, True, True, False), (Outcome.ACTED, True, True, False),
        (Outcome.REFUSED, True, False, False), (Outcome.ESCALATED, True, False, False),
        (Outcome.FAILED, True, False, True), (Outcome.CLARIFIED, False, False, False),
        (Outcome.WAITING_APPROVAL, False, False, False),
    ],
)  # fmt: skip
def test_each_outcome_says_what_it_says(outcome, ended, success, error):
    verdict = judge_reply(reply(outcome))
    assert (verdict.ended, verdict.success, verdict.error) == (ended, success, error)
    assert not verdict.incidents


def test_a_call_of_unknown_outcome_is_an_incident_even_before_the_end():
    verdict = judge_reply(reply(Outcome.WAITING_APPROVAL, CallStatus.IN_DOUBT))
    assert verdict.incidents == ("burn: outcome unknown",)


def test_an_error_is_the_versions_only_if_it_is_its_fault():
    for fault in (
        AgentRunError("x"),
        IntegrityError("x"),
        UngovernedToolCallError("x"),
        ValueError(),
    ):
        assert judge_error(fault).error, fault
    for other in (
        RequestError("x"),
        QuotaExceededError("x"),
        SessionBusyError("x"),
        GeneratorExit(),
    ):
        assert not judge_error(other).ended, other
    assert judge_error(UngovernedToolCallError("x")).incidents
    assert judge_error(IntegrityError("x")).incidents
