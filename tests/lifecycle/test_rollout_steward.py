"""What a rollout asks of the registry: a real gated one."""

from __future__ import annotations

import pytest
from helpers.registry_world import World
from helpers.rollout_world import GATE, STRICT, put, standing
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import IntegrityError, RequestError
from mlflow_agent_plugin.lifecycle.rollout import (
    Arm,
    RolloutBook,
    RolloutPlan,
    RolloutState,
    RolloutSteward,
    TurnVerdict,
    start_rollout,
)
from mlflow_agent_plugin.registry import (
    approve,
    history,
    promote,
    request_promotion,
    retire,
    rollback,
)
from mlflow_agent_plugin.store import Store

BOB = Actor("bob", verified=True)
PLAN = RolloutPlan(share=1.0, success_margin=0.4, error_margin=0.4, min_sessions=5)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    return World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def store():
    with Store.open() as opened:
        yield opened


@pytest.fixture
def book(store):
    return RolloutBook(store)


@pytest.fixture
def steward(store, book, world):
    return RolloutSteward(store, book, client=world.client)


def begin(world, book, plan=PLAN):
    return start_rollout(world.NAME, plan, by=BOB, book=book, client=world.client)


def prove(book, rollout):
    """Let the candidate do as well as the incumbent until that is certain."""
    good = TurnVerdict(ended=True, success=True)
    for number in range(200):
        session = f"s{number}"
        arm = Arm.CANDIDATE if number % 2 else Arm.INCUMBENT
        book.assign(rollout, session)
        book.count(rollout.rollout_id, session, arm, good)
        if book.get(rollout.rollout_id).state is RolloutState.READY:
            return
    raise AssertionError(book.get(rollout.rollout_id).summary())


def test_no_rollout_begins_with_what_the_gate_did_not_let_through(world, book):
    put(world, "one", "@champion")
    with pytest.raises(MlflowException):
        begin(world, book)  # nothing stands there
    with pytest.raises(RequestError, match="both slots"):
        begin(world, book, PLAN.model_copy(update={"candidate_slot": "@champion"}))
    free = world.register("two", GATE)
    world.client.set_registered_model_alias(world.NAME, "free", str(free))
    with pytest.raises(IntegrityError, match="never said"):
        begin(world, book, PLAN.model_copy(update={"candidate_slot": "@free"}))
    promote(world.NAME, 1, to="@canary", client=world.client)
    with pytest.raises(RequestError, match="same content"):
        begin(world, book)
    assert book.list() == []


def test_a_stopped_rollout_empties_the_candidates_slot_on_record(world, book, steward):
    put(world, "one", "@champion")
    put(world, "two", "@canary")
    rollout = begin(world, book)
    steward.step()
    assert standing(world, "@canary") == 2
    book.report_incident(rollout.rollout_id, "told a secret", by=BOB)
    steward.step()
    assert standing(world, "@canary") is None
    assert standing(world, "@champion") == 1
    now = book.get(rollout.rollout_id)
    assert (now.registry_step.value, now.registry_note) == ("", "@canary was emptied")
    last = history(world.NAME, "@canary", client=world.client)[-1]
    assert (last.kind, last.actor) == ("retired", "bob")
    assert rollout.rollout_id in last.reason
    assert "told a secret" in last.reason


def test_a_candidate_that_proved_itself_is_promoted_through_the_gate(world, book, steward):
    put(world, "one", "@champion")
    put(world, "two", "@canary")
    rollout = begin(world, book)
    prove(book, rollout)
    steward.step()
    assert standing(world, "@champion") == 2
    assert book.get(rollout.rollout_id).state is RolloutState.PROMOTED
    assert history(world.NAME, "@champion", client=world.client)[-1].kind == "promoted"
    rollback(world.NAME, to="@champion", reason="after all", by="rita", client=world.client)
    assert standing(world, "@champion") == 1


def test_where_a_reviewer_is_missing_a_request_is_opened_once_and_promotion_follows_the_approval(
    world, book, steward
):
    first = world.register("one", STRICT)
    request_promotion(world.NAME, first, to="@champion", client=world.client)
    approve(world.NAME, first, to="@champion", by="rita", client=world.client)
    promote(world.NAME, first, to="@champion", client=world.client)
    put(world, "two", "@canary", gate=STRICT)
    rollout = begin(world, book)
    prove(book, rollout)
    for _ in range(3):
        steward.step()
    now = book.get(rollout.rollout_id)
    assert now.state is RolloutState.READY
    assert "waits for the gate" in now.registry_note
    assert standing(world, "@champion") == 1
    asked = [event for event in world.events("promotion_requested") if event.body["version"] == 2]
    assert len(asked) == 1
    approve(world.NAME, 2, to="@champion", by="rita", client=world.client)
    steward.step()
    assert standing(world, "@champion") == 2
    assert book.get(rollout.rollout_id).state is RolloutState.PROMOTED


def test_a_slot_that_somebody_moved_ends_the_rollout(world, book, steward):
    put(world, "one", "@champion")
    put(world, "two", "@canary")
    moved = begin(world, book)
    put(world, "three", "@champion")
    steward.step()
    now = book.get(moved.rollout_id)
    assert now.state is RolloutState.STOPPED
    assert "@champion was moved" in now.reason
    steward.step()
    assert standing(world, "@canary") is None

    promote(world.NAME, 2, to="@canary", client=world.client)
    emptied = begin(world, book)
    retire(world.NAME, to="@canary", reason="by hand", client=world.client)
    steward.step()
    assert "points to nothing" in book.get(emptied.rollout_id).reason

    promote(world.NAME, 2, to="@canary", client=world.client)
    by_hand = begin(world, book)
    promote(world.NAME, 2, to="@champion", client=world.client)
    steward.step()
    assert book.get(by_hand.rollout_id).state is RolloutState.PROMOTED


def test_a_registry_that_is_away_is_asked_again(world, book, store, monkeypatch):
    from mlflow import MlflowClient

    put(world, "one", "@champion")
    put(world, "two", "@canary")
    rollout = begin(world, book)
    book.stop(rollout.rollout_id, reason="enough", by=BOB)
    away = MlflowClient(registry_uri="http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    RolloutSteward(store, book, client=away).step()
    now = book.get(rollout.rollout_id)
    assert now.registry_step.value == "retire"
    assert now.registry_note
    assert standing(world, "@canary") == 2
    RolloutSteward(store, book, client=world.client).step()
    assert standing(world, "@canary") is None


def test_one_process_at_a_time_acts(world, book, store, steward):
    from mlflow_agent_plugin.store.leases import LeaseTable

    put(world, "one", "@champion")
    put(world, "two", "@canary")
    rollout = begin(world, book)
    book.stop(rollout.rollout_id, reason="enough", by=BOB)
    leases = LeaseTable(store)
    assert leases.acquire(f"rollout:{rollout.rollout_id}", "another", 60)
    steward.step()
    assert standing(world, "@canary") == 2
    leases.release(f"rollout:{rollout.rollout_id}", "another")
    steward.step()
    assert standing(world, "@canary") is None
