"""Loading by a stage or alias, by MLflow's own means: promoted content runs, nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry as repositories

from mlflow_agent_plugin.core.models_repository import make_repository
from mlflow_agent_plugin.core.promoted import UnsafeLoadWarning
from mlflow_agent_plugin.package.model_folder import PROMOTION_FILE
from mlflow_agent_plugin.registry import retire, rollback

MARK = "open('ran', 'w').close()\n"


@pytest.fixture
def world(world, monkeypatch):
    """Load through the registry of the world, as a process with this setting does."""
    registry = repositories._artifact_repository_registry._registry
    monkeypatch.setitem(registry, "models", make_repository)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", world.registry_uri)
    mlflow.set_registry_uri(world.registry_uri)
    return world


def leave_mark(root):
    """Make a bundle that shows when its code ran."""
    graph = root / "graph.py"
    graph.write_text(graph.read_text() + MARK)


def load(uri):
    return mlflow.pyfunc.load_model(uri)


def stock(world):
    """Load as if a server without the gate stood on the same database."""
    uri = world.registry_uri.removeprefix("agents+")
    mlflow.set_registry_uri(uri)
    return MlflowClient(registry_uri=uri)


@pytest.mark.parametrize("slot", ["Production", "production", "@champion"])
def test_what_was_promoted_loads_by_stage_and_by_alias(world, slot):
    world.promoted("one", "@champion" if slot.startswith("@") else "Production")
    uri = f"models:/shelf{slot}" if slot.startswith("@") else f"models:/shelf/{slot}"
    assert load(uri).predict({"input": [{"role": "user", "content": "hi"}]})


def test_the_statement_travels_with_the_content(world):
    world.promoted("one")
    folder = Path(mlflow.artifacts.download_artifacts("models:/shelf/Production"))
    assert (folder / PROMOTION_FILE).is_file()
    assert load(str(folder))


def test_an_alias_moved_past_the_registry_does_not_load_and_its_code_does_not_run(world):
    world.promoted("one", "@champion")
    version = world.register("two", edit=leave_mark)
    stock(world).set_registered_model_alias("shelf", "champion", str(version))
    with pytest.raises(MlflowException, match="no registry ever said"):
        load("models:/shelf@champion")
    assert not Path("ran").exists()


def test_a_stage_set_past_the_registry_does_not_load(world):
    world.promoted("one")
    version = world.register("two", edit=leave_mark)
    stock(world).transition_model_version_stage("shelf", str(version), "Production")
    with pytest.raises(MlflowException, match="no registry ever said"):
        load("models:/shelf/Production")
    assert not Path("ran").exists()


def test_the_statement_of_one_version_lets_no_other_load(world):
    world.promoted("one", "@champion")
    version = world.register("two", edit=leave_mark)
    client = stock(world)
    text = client.get_model_version("shelf", "1").tags["agent.promotion.alias.champion"]
    client.set_model_version_tag("shelf", str(version), "agent.promotion.alias.champion", text)
    client.set_registered_model_alias("shelf", "champion", str(version))
    with pytest.raises(MlflowException, match="about something else"):
        load("models:/shelf@champion")
    assert not Path("ran").exists()


def test_the_statement_of_one_slot_opens_no_other(world):
    world.promoted("one", "@champion")
    client = stock(world)
    text = client.get_model_version("shelf", "1").tags["agent.promotion.alias.champion"]
    client.set_model_version_tag("shelf", "1", "agent.promotion.Production", text)
    client.transition_model_version_stage("shelf", "1", "Production")
    with pytest.raises(MlflowException, match="about something else"):
        load("models:/shelf/Production")


def test_content_that_no_longer_says_it_is_an_agent_does_not_load(world):
    """Another MLmodel could name a loader that checks nothing."""
    world.promoted("one", "@champion")
    source = Path(world.client.get_model_version("shelf", "1").source)
    (source / "evil.py").write_text("def _load_pyfunc(path):\n    open('ran', 'w').close()\n")
    (source / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}\n")
    stock(world)
    with pytest.raises(MlflowException, match="promoted was"):
        load("models:/shelf@champion")
    assert not Path("ran").exists()


def test_content_changed_where_the_version_was_registered_from_does_not_load(world):
    """Through MLflow's own store, which leads there instead of to the registry's copy."""
    world.promoted("one", "@champion")
    source = Path(world.client.get_model_version("shelf", "1").source)
    with (source / "requirements.txt").open("a") as file:
        file.write("evil\n")
    stock(world)
    with pytest.raises(MlflowException, match="promoted was"):
        load("models:/shelf@champion")


def test_a_machine_that_does_not_trust_the_registry_does_not_load(world, monkeypatch, tmp_path):
    world.promoted("one", "@champion")
    keys = tmp_path / "another machine"
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(keys))
    stock(world)
    with pytest.raises(MlflowException, match=r"not trusted.*key trust"):
        load("models:/shelf@champion")


def test_a_registry_that_trusts_a_key_no_more_is_not_believed(world):
    from mlflow_agent_plugin.trust.keys import KeyStore

    world.promoted("one", "@champion")
    keys = KeyStore()
    keys.revoke(keys.signing_key().key_id)
    (keys.folder / "signing-key.pem").unlink()
    stock(world)
    with pytest.raises(MlflowException, match="not trusted"):
        load("models:/shelf@champion")


def test_an_agent_in_a_registry_without_a_gate_does_not_load_by_a_name(world, tmp_path):
    uri = f"sqlite:///{tmp_path}/stock.db"
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "stock.db")
    client = MlflowClient(registry_uri=uri)
    client.create_registered_model("plain")
    client.create_model_version("plain", str(world.model("one", edit=leave_mark)))
    client.set_registered_model_alias("plain", "champion", "1")
    mlflow.set_registry_uri(uri)
    with pytest.raises(MlflowException, match="no registry ever said"):
        load("models:/plain@champion")
    assert not Path("ran").exists()
    assert load("models:/plain/1")


def test_a_version_number_claims_nothing_and_loads(world):
    world.register("one")
    assert load("models:/shelf/1")
    assert load("models:/shelf/latest")


def test_an_alias_the_registry_does_not_protect_loads_without_a_statement(world):
    world.register("one")
    world.client.set_registered_model_alias("shelf", "challenger", "1")
    assert load("models:/shelf@challenger")


def test_who_forges_which_slots_are_protected_gains_nothing(world):
    world.promoted("one", "@champion")
    world.register("one", name="other", gate=world_gate())
    version = world.register("two", edit=leave_mark)
    client = stock(world)
    client.set_registered_model_alias("shelf", "champion", str(version))
    others = client.get_registered_model("other").tags["agent.slots"]
    for text in (others, "{}", "not JSON", ""):
        client.set_registered_model_tag("shelf", "agent.slots", text)
        with pytest.raises(MlflowException):
            load("models:/shelf@champion")
    assert not Path("ran").exists()


def world_gate():
    return "apiVersion: mlflow-agents/v1\nprotected: {Staging: [{kind: policy_tests}]}\n"


def test_after_a_rollback_the_older_version_loads_again(world):
    world.promoted("one", "@champion")
    world.promoted("two", "@champion")
    rollback("shelf", to="@champion", reason="hm hm", by="alice", client=world.client)
    assert load("models:/shelf@champion")


def test_a_retired_slot_loads_nothing(world):
    world.promoted("one", "@champion")
    retire("shelf", to="@champion", reason="hm hm", by="alice", client=world.client)
    with pytest.raises(MlflowException):
        load("models:/shelf@champion")


@pytest.mark.parametrize("changed", ["MLmodel", "agent/graph.py", "requirements.txt", "new.py"])
def test_a_file_changed_between_download_and_start_does_not_run(world, changed):
    world.promoted("one")
    folder = Path(mlflow.artifacts.download_artifacts("models:/shelf/Production"))
    path = folder / changed
    if path.exists():
        path.chmod(0o644)
    with path.open("a") as file:
        file.write("\n" + ("# " if changed == "MLmodel" else "") + MARK)
    with pytest.raises(MlflowException, match="promoted was"):
        load(str(folder))
    assert not Path("ran").exists()


def test_where_only_promoted_agents_may_run_no_other_does(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_PROMOTED_ONLY", "true")
    world.promoted("one")
    assert load("models:/shelf/Production")
    for uri in ("models:/shelf/1", str(world.model("three", edit=leave_mark))):
        with pytest.raises(MlflowException, match="PROMOTED_ONLY"):
            load(uri)
    assert not Path("ran").exists()


def test_the_unsafe_override_warns_and_leaves_an_audit_event(world, monkeypatch):
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditLog

    world.promoted("one", "@champion")
    version = world.register("two")
    stock(world).set_registered_model_alias("shelf", "champion", str(version))
    monkeypatch.setenv("MLFLOW_AGENTS_UNSAFE_SKIP_PROMOTION_CHECK", "true")
    with pytest.warns(UnsafeLoadWarning, match="UNSAFE"):
        assert load("models:/shelf@champion")
    with Store.open() as store:
        events = AuditLog(store).events(kind="unsafe_override")
    assert [event.body["override"] for event in events] == ["promotion check"]


def test_the_override_needs_its_audit_event(world, monkeypatch, tmp_path):
    world.register("two", edit=leave_mark)
    stock(world).set_registered_model_alias("shelf", "champion", "1")
    monkeypatch.setenv("MLFLOW_AGENTS_UNSAFE_SKIP_PROMOTION_CHECK", "true")
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_URI", f"sqlite:///{tmp_path}/nowhere/agents.db")
    with pytest.warns(UnsafeLoadWarning), pytest.raises(MlflowException):
        load("models:/shelf@champion")
    assert not Path("ran").exists()


def test_ordinary_models_load_as_in_mlflow(world):
    world.ordinary()
    world.client.set_registered_model_alias("ordinary", "champion", "1")
    folder = Path(mlflow.artifacts.download_artifacts("models:/ordinary@champion"))
    assert not (folder / PROMOTION_FILE).exists()


def test_the_entry_point_is_mlflows_repository_of_models():
    from importlib.metadata import entry_points

    found = entry_points(group="mlflow.artifact_repository", name="models")
    assert [entry.load() for entry in found] == [make_repository]
