"""The approval that completes a request moves the slot, in the same transaction."""

from __future__ import annotations

import pytest
from helpers.registry_world import GATE
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from mlflow_agent_plugin.registry import (
    approve,
    emergency_promote,
    history,
    promote,
    reject,
    request_promotion,
)

TWO = GATE.replace("approvals, count: 1", "approvals, count: 2")


def asked(world, text="one", gate=GATE, to="Production", **kwargs):
    """Register and evaluate a version and ask for its promotion; return its number."""
    version = world.register(text, gate)
    world.evaluate(version)
    request_promotion("shelf", version, to=to, client=world.client, **kwargs)
    return version


def say_yes(world, version, who="alice", to="Production"):
    return approve("shelf", version, to=to, by=who, client=world.client)


def standing(world, to="Production"):
    found = world.client.get_latest_versions("shelf", [to])
    return [int(item.version) for item in found]


def told(world, version, to="Production"):
    return world.client.get_model_version("shelf", str(version)).tags.get(f"agent.applied.{to}")


def test_the_last_approval_moves_the_slot_in_its_reviewers_name(world):
    version = asked(world, comment="ready")
    outcome = say_yes(world, version)
    assert outcome.applied, outcome
    assert standing(world) == [version]
    entry = history("shelf", "Production", client=world.client)[-1]
    assert (entry.kind, entry.actor, entry.reason) == ("promoted", "alice", "ready")
    tags = world.client.get_model_version("shelf", str(version)).tags
    assert tags["agent.request.Production"].startswith("executed")
    assert told(world, version) == "yes: this moved Production"
    kinds = [event.kind for event in world.events()][-2:]
    assert kinds == ["promotion_answered", "version_promoted"]


def test_an_alias_moves_as_a_stage_does(world):
    version = asked(world, to="@champion")
    assert say_yes(world, version, to="@champion").applied
    assert int(world.client.get_model_version_by_alias("shelf", "champion").version) == version
    assert told(world, version, "alias.champion").startswith("yes")


def test_approvals_before_the_last_one_move_nothing(world):
    version = asked(world, gate=TWO)
    first = say_yes(world, version)
    assert (first.applied, standing(world)) == (False, [])
    assert "1 of 2" in first.why
    assert not world.events("gate_decided"), "waiting for a second person is no refusal"
    assert say_yes(world, version, "carol").applied
    assert standing(world) == [version]


def test_a_request_that_asks_to_wait_is_approved_and_moved_by_hand(world):
    version = asked(world, apply=False)
    outcome = say_yes(world, version)
    assert (outcome.applied, standing(world)) == (False, [])
    assert "asks to wait" in outcome.why
    promote("shelf", version, to="Production", client=world.client)
    assert standing(world) == [version]
    assert told(world, version) is None


def test_where_the_gate_says_no_the_approval_is_kept_and_the_reason_shown(world):
    version = world.register("one")
    request_promotion("shelf", version, to="Production", client=world.client)
    outcome = say_yes(world, version)
    assert (outcome.applied, standing(world)) == (False, [])
    assert "no evidence on suite shelf" in outcome.why
    assert told(world, version) == f"no: {outcome.why}"
    tags = world.client.get_model_version("shelf", str(version)).tags
    assert tags["agent.request.Production"] == "open, 1 approvals"
    refused = world.events("gate_decided")[-1]
    assert (refused.body["operation"], refused.body["decision"]) == ("agent.approve", "refused")


def test_an_approval_that_would_empty_a_higher_stage_is_kept_and_says_so(world):
    version = asked(world)
    assert say_yes(world, version).applied
    request_promotion("shelf", version, to="Staging", client=world.client)
    outcome = say_yes(world, version, to="Staging")
    assert "would leave Production empty" in outcome.why
    assert (standing(world), standing(world, "Staging")) == ([version], [])


def test_approving_again_applies_what_could_not_be_applied_before(world):
    """As after an outage of the content's storage: one approval stays one."""
    version = asked(world)
    folder = next(world.folder.glob("agent-registry/sha256/*/agent"))
    hidden = folder.with_name("hidden")
    folder.parent.chmod(0o755)
    folder.rename(hidden)
    assert "content" in say_yes(world, version).why
    hidden.rename(folder)
    assert say_yes(world, version).applied
    assert standing(world) == [version]


def test_an_incumbent_that_changed_makes_earlier_approvals_stale_and_nothing_moves(world):
    version = asked(world, gate=TWO)
    say_yes(world, version)
    other = world.register("other", TWO)
    emergency_promote(
        "shelf", other, to="Production", reason="outage", by="eve", client=world.client
    )
    outcome = say_yes(world, version, "carol")
    assert not outcome.applied
    assert "1 given before" in outcome.why
    assert standing(world) == [other]


def test_an_open_request_does_not_silently_become_one_that_waits(world):
    version = asked(world)
    with pytest.raises(MlflowException, match="Withdraw it"):
        request_promotion("shelf", version, to="Production", apply=False, client=world.client)
    request_promotion("shelf", version, to="Production", client=world.client)


def test_a_rejected_request_shows_no_outcome_of_an_approval(world):
    version = asked(world, gate=TWO)
    say_yes(world, version)
    reject("shelf", version, to="Production", reason="too curt", by="carol", client=world.client)
    assert told(world, version) is None


def test_a_request_whose_row_was_tampered_with_waits_or_is_refused(world):
    """Removing the row makes it wait; writing one needs the registry's key."""
    version = asked(world)
    engine = world.store.engine
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM agent_promotion_applies"))
    assert "asks to wait" in say_yes(world, version).why
    with engine.begin() as connection:
        request_id = connection.execute(text("SELECT request_id FROM agent_promotion_requests"))
        connection.execute(
            text("INSERT INTO agent_promotion_applies VALUES (:r, 'now', 'x:y')"),
            {"r": request_id.scalar()},
        )
    with pytest.raises(MlflowException, match="key this registry does not trust"):
        say_yes(world, version, "carol")
    assert standing(world) == []


def test_requests_opened_before_this_existed_wait(world):
    """A database from before has no rows that say to apply; the table is made when it is opened."""
    version = asked(world)
    with world.store.engine.begin() as connection:
        connection.execute(text("DROP TABLE agent_promotion_applies"))
    from mlflow_agent_plugin.registry.tables import ensure_tables

    ensure_tables(world.store.engine)
    assert "asks to wait" in say_yes(world, version).why
