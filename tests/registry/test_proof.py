"""Loading by a protected name with proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.errors import IntegrityError
from mlflow_agent_plugin.registry import (
    check_promotion,
    fetch_promoted,
    promote,
    request_promotion,
    rollback,
)
from mlflow_agent_plugin.registry.proof import check_statement


def test_what_was_promoted_comes_with_who_when_and_its_folder(world):
    world.promoted("one")
    found = fetch_promoted("shelf", "production", client=world.client)
    assert (found.version, found.kind, found.actor) == (1, "promoted", "bob")
    assert found.agent_digest == world.digest(1)
    assert (found.folder / "MLmodel").exists()


def test_a_rolled_back_slot_has_a_statement_of_its_own(world):
    world.promoted("one", "@champion")
    world.promoted("two", "@champion")
    rollback("shelf", to="@champion", reason="hm hm", by="alice", client=world.client)
    assert check_promotion("shelf", "@champion", client=world.client).kind == "rolled_back"


def test_an_empty_slot_is_an_error(world):
    world.register("one")
    with pytest.raises(MlflowException, match="empty"):
        fetch_promoted("shelf", "Production", client=world.client)


def test_what_stood_there_before_the_gate_has_no_statement(world):
    world.ordinary("shelf")
    world.client.transition_model_version_stage("shelf", "1", "Production")
    world.register("one")
    with pytest.raises(IntegrityError, match="never said"):
        fetch_promoted("shelf", "Production", client=world.client)


@pytest.mark.parametrize(
    "forge",
    [
        lambda row: {**row, "version": 2},
        lambda row: {**row, "content_digest": "sha256:" + "0" * 64},
        lambda row: {**row, "slot": "@champion"},
        lambda row: {**row, "seal": "x" * 64 + ":" + "A" * 86 + "=="},
        lambda row: {k: v for k, v in row.items() if k != "seal"},
        lambda row: [],
        lambda row: None,
    ],
)
def test_a_forged_statement_is_refused(world, forge):
    world.promoted("one")
    text = world.client.get_model_version("shelf", "1").tags["agent.promotion.Production"]
    assert check_statement(text, "shelf", "Production", 1).version == 1
    with pytest.raises(IntegrityError):
        check_statement(json.dumps(forge(json.loads(text))), "shelf", "Production", 1)


def test_a_true_statement_about_something_else_is_refused(world):
    world.promoted("one")
    text = world.client.get_model_version("shelf", "1").tags["agent.promotion.Production"]
    for name, slot, version in (
        ("other", "Production", 1),
        ("shelf", "@champion", 1),
        ("shelf", "Production", 2),
    ):
        with pytest.raises(IntegrityError, match="something else"):
            check_statement(text, name, slot, version)


def test_a_statement_of_a_key_nobody_trusts_is_refused(world, monkeypatch, tmp_path):
    world.promoted("one")
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(tmp_path / "another machine"))
    with pytest.raises(IntegrityError, match="trust"):
        fetch_promoted("shelf", "Production", client=_rest_like(world))


def _rest_like(world):
    """A client whose registry checks nothing: MLflow's own store on the same database."""
    from mlflow import MlflowClient

    return MlflowClient(registry_uri=world.registry_uri.removeprefix("agents+"))


def test_content_that_is_not_what_the_statement_names_is_refused(world):
    """Through MLflow's own store, which leads to the folder the version was registered from."""
    world.promoted("one")
    source = Path(world.client.get_model_version("shelf", "1").source)
    with (source / "requirements.txt").open("a") as file:
        file.write("evil\n")
    with pytest.raises(IntegrityError, match="promoted was"):
        fetch_promoted("shelf", "Production", client=_rest_like(world))


def test_reviewers_see_what_a_version_changes(world):
    world.promoted("one")
    version = world.register("two")
    request_promotion("shelf", version, to="Production", client=world.client)
    shown = world.client.get_model_version("shelf", "2").tags["agent.diff.Production"]
    assert "agent.yaml" in shown
    world.ready(version)
    promote("shelf", version, to="Production", client=world.client)
