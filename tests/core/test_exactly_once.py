"""Killed at any moment, resumed by many at once: nothing happens twice, nothing is lost."""

from __future__ import annotations

import pytest
from helpers.crash_nursery import run_nursery
from helpers.scale import scaled
from helpers.shelf_agent import call, say, write_bundle

PARALLEL = {
    "tool_calls": [
        {"name": "put", "args": {"item": "lamp"}, "id": "c2"},
        {"name": "burn", "args": {"item": "map"}, "id": "c3"},
    ]
}


@pytest.fixture
def root(tmp_path):
    """Write a bundle whose conversation has one tool of each effect."""
    folder = write_bundle(
        tmp_path / "bundle",
        [call("look", "lamp", "c1"), PARALLEL, say("done")],
        folder=tmp_path / "shelf",
    )
    contract = folder / "contracts" / "burn.yaml"
    contract.write_text(contract.read_text().replace("timeout_seconds: 0.5", "timeout_seconds: 60"))
    return folder


def check(left, wanted):
    """Check every promise on what the dead left behind."""
    assert left["deaths"] >= wanted
    assert left["verified"]
    assert (left["lost_events"], left["lost_approvals"]) == ([], [])
    assert left["promised_events"] > 0
    assert set(left["effects"].values()) == {1}, "an effect happened twice"
    unsure = set(left["in_doubt"])
    for session, end in left["ends"].items():
        assert end["open"] == [], f"{session} did not come to its end"
        assert left["effects"][f"put {session}"] == 1
        assert left["burns_started"][session] == 1
        if f"{session}:c3" in unsure:
            assert any('"in_doubt"' in message for message in end["told"]), session
        else:
            assert end["burn_claim"] == "done"
            assert left["effects"][f"burn {session}"] == 1
    assert set(left["approvals"]) == {"executed"}


def test_a_conversation_killed_at_any_moment_goes_on_and_repeats_nothing(root, store_uri, tmp_path):
    wanted = scaled(12, 300)
    check(run_nursery("trials", root, store_uri, tmp_path, deaths=wanted), wanted)


@pytest.mark.integration
def test_a_served_conversation_whose_server_is_killed_goes_on_and_repeats_nothing(
    root, store_uri, tmp_path
):
    import mlflow_agent_plugin as agents

    model, wanted = tmp_path / "model", scaled(4, 300)
    agents.save_agent(root, model)
    left = run_nursery("served", root, store_uri, tmp_path, model=str(model), deaths=wanted)
    check(left, wanted)


def test_fifty_resumes_of_one_approval_from_four_processes_have_one_effect(
    root, store_uri, tmp_path
):
    left = run_nursery("resumes", root, store_uri, tmp_path, processes=4, threads=13)
    assert left["effects"] == {"put shared": 1, "burn shared": 1}
    assert left["burns_started"] == {"shared": 1}
    assert left["answers"]["acted"] == 1
    assert set(left["answers"]) <= {"acted", "SessionBusyError", "RequestError"}
    assert left["approvals"] == {"executed": 1}
    assert left["verified"]
