"""Ordinary models behave exactly as in MLflow: the same script on both stores, line by line."""

from __future__ import annotations

import re
import shutil

import pytest

STEPS = [
    lambda c: c.create_registered_model("m", {"agent.x": "mine", "a": "b"}, "text"),
    lambda c: c.create_registered_model("m"),
    lambda c: c.create_registered_model(""),
    lambda c: c.create_model_version("m", "path/one", tags={"agent.gate.Production": "mine"}),
    lambda c: c.create_model_version("m", "path/two", run_id="r" * 32, description="d"),
    lambda c: c.create_model_version("m", "s3://no-such-bucket-here/x"),
    lambda c: c.create_model_version("nope", "path/one"),
    lambda c: c.copy_model_version("models:/m/1", "copy"),
    lambda c: c.get_model_version("m", "1"),
    lambda c: c.get_model_version("m", "9"),
    lambda c: c.get_model_version_download_uri("m", "2"),
    lambda c: c.get_model_version_download_uri("m", "x"),
    lambda c: c.update_model_version("m", "1", "new"),
    lambda c: c.update_registered_model("m", "new"),
    lambda c: c.transition_model_version_stage("m", "1", "production"),
    lambda c: c.transition_model_version_stage("m", "2", "Production"),
    lambda c: c.get_latest_versions("m", ["production"]),
    lambda c: c.transition_model_version_stage(
        "m", "3", "Production", archive_existing_versions=True
    ),
    lambda c: c.transition_model_version_stage("m", "1", "Nowhere"),
    lambda c: c.transition_model_version_stage("m", "1", "None", archive_existing_versions=True),
    lambda c: c.transition_model_version_stage("m", "9", "Staging"),
    lambda c: c.get_latest_versions("m"),
    lambda c: c.set_registered_model_alias("m", "champion", "1"),
    lambda c: c.set_registered_model_alias("m", "CHAMPION", "2"),
    lambda c: c.set_registered_model_alias("m", "latest", "2"),
    lambda c: c.set_registered_model_alias("m", "champion", "9"),
    lambda c: c.get_model_version_by_alias("m", "champion"),
    lambda c: c.get_model_version_by_alias("m", "nobody"),
    lambda c: c.delete_registered_model_alias("m", "CHAMPION"),
    lambda c: c.delete_registered_model_alias("m", "CHAMPION"),
    lambda c: c.set_model_version_tag("m", "1", "agent.approve", "not a command here"),
    lambda c: c.set_model_version_tag("m", "1", "agent.evidence", "run"),
    lambda c: c.set_model_version_tag("m", "9", "agent.evidence", "run"),
    lambda c: c.set_model_version_tag("m", "1", "mlflow.prompt.is_prompt", "false"),
    lambda c: c.delete_model_version_tag("m", "1", "agent.approve"),
    lambda c: c.delete_model_version_tag("m", "1", "never there"),
    lambda c: c.set_registered_model_tag("m", "agent.rules", "not rules here"),
    lambda c: c.delete_registered_model_tag("m", "agent.rules"),
    lambda c: c.set_registered_model_tag("nope", "agent.rules", "x"),
    lambda c: c.search_model_versions("name = 'm'"),
    lambda c: c.search_registered_models(),
    lambda c: c.delete_model_version("m", "1"),
    lambda c: c.delete_model_version("m", "1"),
    lambda c: c.rename_registered_model("m", "n"),
    lambda c: c.rename_registered_model("m", "n"),
    lambda c: c.rename_registered_model("n", "copy"),
    lambda c: c.register_prompt("p", "hello {{ name }}"),
    lambda c: c.register_prompt("p", "hi {{ name }}"),
    lambda c: c.set_prompt_alias("p", "champion", 1),
    lambda c: c.load_prompt("prompts:/p@champion"),
    lambda c: c.delete_prompt_alias("p", "champion"),
    lambda c: c.create_model_version("p", "path/one"),
    lambda c: c.get_registered_model("n"),
    lambda c: c.delete_registered_model("n"),
    lambda c: c.get_registered_model("n"),
    lambda c: c.create_registered_model("n"),
    lambda c: c.search_model_versions(),
    lambda c: c.search_registered_models(),
]


def told(step, client):
    """What a step gives, without what differs from run to run."""
    try:
        value = step(client)
    except Exception as error:
        value = f"{type(error).__name__} {getattr(error, 'error_code', '')} {error}"
    items = value if isinstance(value, list) else [value]
    text = "\n".join(
        repr(sorted(vars(item).items())) if hasattr(item, "__dict__") else repr(item)
        for item in items
    )
    text = re.sub(r"\b1\d{12}\b", "<time>", text)
    text = re.sub(r"0x[0-9a-f]+", "<address>", text)
    return re.sub(r"(agents\+)?sqlite:///\S+", "<uri>", text)


def test_every_step_gives_what_it_gives_on_mlflows_own_store(tmp_path, empty_mlflow_database):
    from mlflow import MlflowClient

    outcomes = []
    for kind, scheme in (("stock", "sqlite"), ("gated", "agents+sqlite")):
        database = tmp_path / f"{kind}.db"
        shutil.copy(empty_mlflow_database, database)
        client = MlflowClient(registry_uri=f"{scheme}:///{database}")
        outcomes.append([told(step, client) for step in STEPS])
    for number, (stock, gated) in enumerate(zip(*outcomes, strict=True)):
        assert gated == stock, f"step {number}"


def test_an_ordinary_models_changes_leave_no_trace_in_our_tables(world):
    from sqlalchemy import inspect, text

    world.ordinary()
    world.client.transition_model_version_stage("ordinary", "1", "Production")
    world.client.set_registered_model_alias("ordinary", "champion", "1")
    world.client.delete_registered_model("ordinary")
    with world.store.engine.connect() as connection:
        for table in inspect(world.store.engine).get_table_names():
            if table.startswith("agent_"):
                assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0, (
                    table
                )


def test_a_changed_artifact_of_an_ordinary_model_is_its_own_business(world):
    world.ordinary()
    world.client.transition_model_version_stage("ordinary", "1", "Production")
    (world.folder / "ordinary" / "model" / "MLmodel").write_text("changed")
    assert world.loads("Production", "ordinary")["MLmodel"] == b"changed"


@pytest.mark.parametrize(
    "uri", ["agents+sqlite", "agents+oracle://x/y", "agents+", "agents+sqlite:/"]
)
def test_a_malformed_registry_uri_is_a_clear_error(uri):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException):
        MlflowClient(registry_uri=uri).search_registered_models()
