"""MLflow's own images of an agent: made without a Docker daemon, started with what was promoted."""

from __future__ import annotations

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.models.cli import generate_dockerfile
from mlflow.store.artifact import artifact_repository_registry as repositories

from mlflow_agent_plugin.core.models_repository import make_repository
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore

ASK = {"input": [{"role": "user", "content": "hi"}]}


def test_an_images_folder_holds_the_promoted_agent_and_its_statement(world, tmp_path, monkeypatch):
    monkeypatch.setitem(
        repositories._artifact_repository_registry._registry, "models", make_repository
    )
    world.promoted("one", "@champion")
    mlflow.set_registry_uri(world.registry_uri)
    image = tmp_path / "image"
    options = ["-m", "models:/shelf@champion", "-d", str(image), "--env-manager", "local"]
    made = CliRunner().invoke(generate_dockerfile, options)
    assert made.exit_code == 0, made.output
    assert "COPY model_dir /opt/ml/model" in (image / "Dockerfile").read_text()
    registry_key = KeyStore().signing_key().public_key
    container = tmp_path / "container"
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(container))
    # As in the container: what it is started with is checked by the keys trusted there, none yet.
    with pytest.raises(MlflowException, match="trust"):
        mlflow.pyfunc.load_model(str(image / "model_dir"))
    KeyStore().trust(registry_key, purpose=KeyPurpose.AUDIT)
    model = mlflow.pyfunc.load_model(str(image / "model_dir"))
    assert model.predict(ASK)["status"] == "completed"
