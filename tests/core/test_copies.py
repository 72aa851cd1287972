"""Private copies of models go when nobody uses them any more, at the latest with their process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from mlflow_agent_plugin.core.copies import keep_while, new_copy_folder


class Model:
    """Something that was loaded from a copy."""


def test_a_copy_goes_with_what_was_loaded_from_it():
    folder = new_copy_folder("agent-test-")
    (folder / "model").mkdir()
    model = Model()
    keep_while(model, folder / "model")
    gc.collect()
    assert folder.exists()
    del model
    gc.collect()
    assert not folder.exists()


def test_folders_of_others_are_left_alone(tmp_path):
    model = Model()
    keep_while(model, tmp_path)
    del model
    gc.collect()
    assert tmp_path.exists()


def test_a_forked_process_leaves_the_copies_of_its_parent():
    folder = new_copy_folder("agent-test-")
    model = Model()
    keep_while(model, folder)
    child = os.fork()
    if child == 0:
        del model
        gc.collect()
        os._exit(0 if folder.exists() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.exists()
    del model
    gc.collect()


def test_what_is_still_in_use_goes_when_the_process_ends():
    code = (
        "from mlflow_agent_plugin.core.copies import new_copy_folder, keep_while\n"
        "folder = new_copy_folder('agent-test-'); (folder / 'file').write_text('x')\n"
        "print(folder)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip()
    assert not Path(said.stdout.strip()).exists()


def test_an_agent_loaded_by_a_slot_leaves_nothing_in_the_temporary_folder(tmp_path, monkeypatch):
    """Of the folder MLflow's repository made for it; what MLflow itself makes is MLflow's."""
    import mlflow
    from helpers.registry_world import World
    from mlflow.store.artifact import artifact_repository_registry as repositories

    from mlflow_agent_plugin.core.models_repository import make_repository

    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    registry = repositories._artifact_repository_registry
    monkeypatch.setitem(registry._registry, "models", make_repository)
    world = World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
    world.promoted("one", "@champion")
    mlflow.set_registry_uri(world.registry_uri)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    model = mlflow.pyfunc.load_model("models:/shelf@champion")
    assert len(list(scratch.glob("agent-promoted-*"))) == 1
    assert model.predict({"input": [{"role": "user", "content": "hi"}]})
    del model
    gc.collect()
    assert list(scratch.glob("agent-promoted-*")) == []
