"""The same gate in workspaces, on PostgreSQL, and where the audit lives in another database."""

from __future__ import annotations

import pytest
from helpers.registry_world import World
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import gate_report, history, promote, rollback


def test_each_workspace_has_its_own_gate(tmp_path, monkeypatch):
    from mlflow.utils.workspace_context import WorkspaceContext

    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    world = World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")
    world.runs_location = None  # MLflow chooses artifact locations where there are workspaces
    with WorkspaceContext("default"):
        assert type(world.store).__name__ == "GatedWorkspaceStore"
        world.promoted("one")
    with WorkspaceContext("blue"):
        world.ordinary("shelf")  # the same name, an ordinary model here
        world.client.transition_model_version_stage("shelf", "1", "Production")
        assert history("shelf", client=world.client) == []
    with WorkspaceContext("green"):
        version = world.register("one")
        assert not gate_report("shelf", version, to="Production", client=world.client).passed
        with pytest.raises(MlflowException, match="approvals"):
            promote("shelf", version, to="Production", client=world.client)
    with WorkspaceContext("default"):
        assert [e.version for e in history("shelf", client=world.client)] == [1]


def flow(world):
    world.promoted("one")
    world.promoted("two")
    rollback("shelf", to="Production", reason="hm hm", by="alice", client=world.client)
    with pytest.raises(MlflowException, match="would change"):
        world.client.delete_model_version("shelf", "1")
    assert [e.kind for e in history("shelf", client=world.client)] == [
        "promoted",
        "promoted",
        "rolled_back",
    ]
    assert world.client.get_latest_versions("shelf", ["Production"])[0].version in {1, "1"}


@pytest.mark.integration
def test_the_whole_way_on_postgresql(tmp_path, monkeypatch, postgres_uri):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", (tmp_path / "content").as_uri())
    flow(World(tmp_path, f"agents+{postgres_uri}"))


def test_where_the_runtime_store_cannot_share_the_database_events_go_to_it_first(
    world, monkeypatch
):
    """The way of MySQL, walked on sqlite."""
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditLog

    monkeypatch.setattr(world.store._transactions, "_shared", False)
    flow(world)
    with Store.open() as store:  # MLFLOW_AGENTS_STORE_URI
        kinds = [event.kind for event in AuditLog(store).events()]
    assert kinds.count("version_promoted") == 2
    assert kinds[-2:] == ["version_rolled_back", "gate_decided"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("agents+sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("agents+postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("agents+mysql+pymysql://u:p@h/d", "mysql+pymysql://u:p@h/d"),
        ("agents+mysql://u:p@h/d", "mysql+pymysql://u:p@h/d"),
    ],
)
def test_the_database_url_is_what_follows_the_prefix(given, made):
    from mlflow_agent_plugin.registry.gated_store import database_uri

    assert database_uri(given) == made


def test_importing_the_store_loads_no_mlflow():
    import subprocess
    import sys

    code = (
        "import sys, mlflow_agent_plugin.registry.gated_store, mlflow_agent_plugin.registry;"
        "print([m for m in ('mlflow', 'sqlalchemy', 'pydantic', 'cryptography') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
