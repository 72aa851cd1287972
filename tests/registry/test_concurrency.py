"""Several processes change one slot at once: one consistent outcome, nothing lost, no deadlock."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers.promoters import attempt
from helpers.registry_world import GATE, World

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


def test_a_hundred_promotions_from_many_processes_make_one_line(shared):
    world, environment = shared
    processes = 8 if "postgresql" in world.registry_uri else 3
    each = 13 if processes == 8 else 8
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
