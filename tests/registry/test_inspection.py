"""A whole registry checked at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.registry import emergency_promote, retire, rollback, verify_registry


@pytest.fixture
def used(world):
    """Give a registry in which most things happened once."""
    world.promoted("one")
    world.promoted("two")
    rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)
    three = world.register("three")
    emergency_promote(
        "shelf", three, to="Production", reason="outage", by="eve", client=world.client
    )
    retire("shelf", to="Production", reason="over", by="alice", client=world.client)
    world.client.delete_registered_model("shelf")
    world.promoted("one", "@champion")
    return world


def test_a_registry_that_was_used_as_intended_is_in_order(used):
    found = verify_registry(used.client)
    assert found.ok, str(found)
    assert found.checked["copies"] == 4  # MLmodel tells when it was saved
    assert found.checked["rows"] > 10
    assert "no problems" in str(found)


def test_an_empty_one_too(world):
    assert verify_registry(world.client).ok


def test_it_needs_the_database_at_hand(tmp_path):
    from mlflow import MlflowClient

    with pytest.raises(RequestError, match=r"agents\+"):
        verify_registry(MlflowClient(registry_uri=f"sqlite:///{tmp_path}/mlflow.db"))


EDITS = [
    ("UPDATE agent_promotion_answers SET user_name = 'bob'", "seal"),
    ("UPDATE agent_evidence SET results = x'00'", "evidence of shelf"),
    ("UPDATE agent_evidence SET suite_digest = 'sha256:0'", "seal"),
    ("UPDATE agent_slot_history SET reason = 'none'", "history"),
    ("DELETE FROM agent_slot_history WHERE slot = 'Production'", "tells of fewer"),
    ("DELETE FROM agent_evidence", "its row is gone"),
    ("DELETE FROM agent_versions WHERE version = 3", "version 3 was registered"),
    ("UPDATE registered_model_aliases SET version = 9", "registry put"),
    ("UPDATE agent_promotion_requests SET requested_by = 'eve'", "seal"),
]


def test_each_edit_in_the_database_is_told(used):
    engine = used.store.engine
    with sqlite3.connect(used.folder / "before.db") as before:
        with sqlite3.connect(engine.url.database) as now:
            now.backup(before)
        for edit, told in EDITS:
            with engine.begin() as connection:
                connection.execute(text(edit))
            found = verify_registry(used.client)
            assert not found.ok, edit
            assert told in str(found), edit
            with sqlite3.connect(engine.url.database) as now:
                before.backup(now)
            assert verify_registry(used.client).ok, edit


def test_a_changed_copy_is_told(used):
    folder = next((Path(used.folder) / "agent-registry" / "sha256").iterdir())
    (folder / "MLmodel").chmod(0o644)
    with (folder / "MLmodel").open("a") as file:
        file.write("#\n")
    assert "copy was changed" in str(verify_registry(used.client))
