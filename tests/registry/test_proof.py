"""Loading by a protected name with proof."""

from __future__ import annotations

import base64
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


def payload(text, **changes):
    """Return the statement with fields of its predicate changed, its signature as it was."""
    envelope = json.loads(text)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"].update(changes)
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(envelope)


@pytest.mark.parametrize(
    "forge",
    [
        lambda text: payload(text, version=2),
        lambda text: payload(text, slot="@champion"),
        lambda text: payload(text, agentDigest={"sha256": "0" * 64}),
        lambda text: json.dumps({**json.loads(text), "signatures": []}),
        lambda text: json.dumps(
            {
                **json.loads(text),
                "signatures": [{**json.loads(text)["signatures"][0], "keyid": "x" * 64}],
            }
        ),
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "",
    ],
)
def test_a_forged_statement_is_refused(world, forge):
    world.promoted("one")
    text = world.client.get_model_version("shelf", "1").tags["agent.promotion.Production"]
    assert check_statement(text, "shelf", "Production", 1).version == 1
    with pytest.raises(IntegrityError):
        check_statement(forge(text), "shelf", "Production", 1)


def test_promoting_again_what_stands_there_signs_the_statement_anew(world):
    from mlflow_agent_plugin.trust.keys import KeyStore

    world.promoted("one")
    key = KeyStore().folder / "signing-key.pem"
    KeyStore().trust(KeyStore().signing_key().public_key)  # the old key still vouches for old rows
    key.unlink()
    promote("shelf", 1, to="Production", client=world.client)
    text = world.client.get_model_version("shelf", "1").tags["agent.promotion.Production"]
    assert json.loads(text)["signatures"][0]["keyid"] == KeyStore().signing_key().key_id
    assert check_statement(text, "shelf", "Production", 1).kind == "promoted"


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
    request_promotion("shelf", version, to="Production", apply=False, client=world.client)
    shown = world.client.get_model_version("shelf", "2").tags["agent.diff.Production"]
    assert "agent.yaml" in shown
    world.ready(version)
    promote("shelf", version, to="Production", client=world.client)
