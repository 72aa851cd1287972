"""Several processes change one slot at once: one consistent outcome, nothing lost, no deadlock."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from helpers.promoters import attempt
from helpers.registry_world import GATE, World
from helpers.scale import scaled
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import (
    approve,
    gate_report,
    promote,
    reject,
    request_promotion,
    rollback,
    withdraw,
)

pytestmark = pytest.mark.integration

OPEN = """
apiVersion: mlflow-agents/v1
protected:
  Production: [{kind: policy_tests}]
  "@champion": [{kind: policy_tests}]
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request, tmp_path, monkeypatch):
    """Give a world and the environment other processes need to join it."""
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", (tmp_path / "content").as_uri())
    uri = f"agents+sqlite:///{tmp_path}/mlflow.db"
    if request.param == "postgresql":
        uri = f"agents+{request.getfixturevalue('postgres_uri')}"
    names = ("MLFLOW_AGENTS_KEY_DIR", "MLFLOW_AGENTS_REGISTRY_CONTENT", "MLFLOW_AGENTS_ACTOR",
             "MLFLOW_TRACKING_URI", "MLFLOW_AGENTS_STORE_URI")  # fmt: skip
    return World(tmp_path, uri), {name: os.environ[name] for name in names}


def run(world, environment, plans):
    """Run one process per plan (versions, slot), all starting at once; return all outcomes."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(len(plans))
        with ProcessPoolExecutor(len(plans), mp_context=context) as pool:
            futures = [
                pool.submit(attempt, world.registry_uri, environment, start, versions, to)
                for versions, to in plans
            ]
            return [outcome for future in futures for outcome in future.result(timeout=300)]


def check_chain(world, slot):
    """Check that history, pointer and audit tell one story; return the history."""
    from mlflow_agent_plugin.registry import history

    entries = history("shelf", slot, client=world.client)  # verifies numbers, hashes and seals
    if slot.startswith("@"):
        found = [world.client.get_model_version_by_alias("shelf", slot[1:])]
    else:
        found = world.client.get_latest_versions("shelf", [slot])
    assert [int(item.version) for item in found] == [entries[-1].version]
    return entries


def test_promotions_from_many_processes_make_one_line(shared):
    """A hundred of them from eight processes at full scale, on PostgreSQL."""
    world, environment = shared
    processes, each = (3, scaled(3, 8))  # sqlite: one writer at a time
    if "postgresql" in world.registry_uri:
        processes, each = (scaled(4, 8), scaled(6, 13))
    versions = [world.register(f"v{number}", gate=OPEN) for number in range(4)]
    plans = [
        (
            [versions[(number + step) % 4] for step in range(each)],
            ("Production", "@champion")[number % 2],
        )
        for number in range(processes)
    ]
    outcomes = run(world, environment, plans)
    assert len(outcomes) == processes * each
    assert {code for _, code, _ in outcomes} == {"OK"}, outcomes
    moved = sum(len(check_chain(world, slot)) for slot in ("Production", "@champion"))
    assert moved == len(world.events("version_promoted"))
    audit = world.store._transactions.audit
    audit.checkpoint()
    assert audit.verify().ok


def test_of_versions_approved_against_one_incumbent_exactly_one_wins(shared):
    world, environment = shared
    versions = [world.register(f"v{number}", gate=GATE) for number in range(3)]
    for version in sorted(versions, reverse=True):  # a newer request would close the older ones
        world.ready(version)
    outcomes = run(world, environment, [([version], "Production") for version in versions])
    assert sorted(code for _, code, _ in outcomes) == [
        "OK",
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
    ]
    entries = check_chain(world, "Production")
    winner = next(version for version, code, _ in outcomes if code == "OK")
    assert [entry.version for entry in entries] == [winner]
    assert all("given before" in text for _, code, text in outcomes if code != "OK")


def at_once(*acts):
    """Run the acts at the same moment; return what each gave: None, or the refusal."""
    start = threading.Barrier(len(acts))

    def run(act):
        start.wait(60)
        try:
            act()
        except MlflowException as error:
            return error
        return None

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, act) for act in acts]]


def asked(world, text, gate):
    version = world.register(text, gate)
    world.evaluate(version)
    request_promotion("shelf", version, to="Production", apply=False, client=world.client)
    return version


def test_the_last_of_reviewers_at_once_moves_the_slot_once_while_another_slot_moves(shared):
    """Two reviewers of two targets, all at once: each target moves once, by whoever came last."""
    world, _ = shared
    version = world.register("one", GATE.replace("approvals, count: 1", "approvals, count: 2"))
    world.evaluate(version)
    slots = ("Production", "@champion")
    for slot in slots:
        request_promotion("shelf", version, to=slot, client=world.client)

    def say(who, slot):
        return lambda: approve("shelf", version, to=slot, by=who, client=world.client)

    acts = [say(who, slot) for slot in slots for who in ("alice", "carol")]
    assert at_once(*acts) == [None] * 4
    for slot in slots:
        assert [entry.version for entry in check_chain(world, slot)] == [version]
    assert len(world.events("version_promoted")) == 2


def test_an_approval_during_a_rollback_leaves_one_story(shared):
    """Whichever is first: the approval moves the slot and is rolled back, or is about another."""
    world, _ = shared
    world.promoted("one")
    world.promoted("two")
    version = world.register("three")
    world.evaluate(version)
    request_promotion("shelf", version, to="Production", client=world.client)
    outcomes = at_once(
        lambda: approve("shelf", version, to="Production", by="alice", client=world.client),
        lambda: rollback("shelf", to="Production", reason="hm hm", by="carol", client=world.client),
    )
    assert outcomes == [None, None]
    stood = [entry.version for entry in check_chain(world, "Production")]
    assert stood in ([1, 2, 3, 2], [1, 2, 1, 3])


def test_two_reviewers_at_once_count_twice_and_one_who_clicks_twice_once(shared):
    world, _ = shared
    version = asked(world, "one", GATE.replace("approvals, count: 1", "approvals, count: 2"))

    def say(who):
        return lambda: approve("shelf", version, to="Production", by=who, client=world.client)

    assert at_once(say("alice"), say("alice"), say("Alice ")) == [None] * 3
    report = gate_report("shelf", version, to="Production", client=world.client)
    assert "1 of 2" in str(report)
    assert at_once(say("alice"), say("carol")) == [None] * 2
    promote("shelf", version, to="Production", client=world.client)
    assert [entry.version for entry in check_chain(world, "Production")] == [version]


def test_an_approval_and_a_rejection_at_once_leave_the_request_closed(shared):
    """Whichever was first: what was rejected or withdrawn opens nothing."""
    world, _ = shared
    version = asked(world, "one", GATE)
    at_once(
        lambda: approve("shelf", version, to="Production", by="alice", client=world.client),
        lambda: reject(
            "shelf", version, to="Production", reason="no no", by="carol", client=world.client
        ),
        lambda: withdraw("shelf", version, to="Production", reason="mine", client=world.client),
    )
    with pytest.raises(MlflowException, match="not met"):
        promote("shelf", version, to="Production", client=world.client)


def test_a_promotion_during_a_rollback_leaves_one_story(shared):
    world, _ = shared
    world.promoted("one")
    world.promoted("two")
    version = world.register("three")
    world.ready(version)
    outcomes = at_once(
        lambda: promote("shelf", version, to="Production", client=world.client),
        lambda: rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client),
        lambda: rollback("shelf", to="Production", reason="hm hm", by="carol", client=world.client),
    )
    entries = check_chain(world, "Production")
    assert len(entries) == 2 + outcomes.count(None)
    # If a rollback came first, the approval was given against another incumbent and counts no more.
    for outcome in outcomes:
        assert outcome is None or outcome.error_code in {
            "PERMISSION_DENIED",
            "INVALID_PARAMETER_VALUE",
        }
    audit = world.store._transactions.audit
    audit.checkpoint()
    assert audit.verify().ok


def test_two_targets_at_once_leave_both_consistent(shared):
    world, _ = shared
    world.promoted("one")
    version = world.register("two")
    world.ready(version, "@champion")
    request_promotion("shelf", version, to="Production", client=world.client)
    approve("shelf", version, to="Production", by="alice", client=world.client)
    outcomes = at_once(
        *(lambda to=to: promote("shelf", version, to=to, client=world.client)
          for to in ("Production", "@champion", "Production", "@champion"))
    )  # fmt: skip
    assert outcomes == [None] * 4
    assert [entry.version for entry in check_chain(world, "Production")] == [1, version]
    assert [entry.version for entry in check_chain(world, "@champion")] == [version]
