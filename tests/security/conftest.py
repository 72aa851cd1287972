"""A gated registry on each database it supports here, built once and put back before every attack."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.registry_world import World

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)]


class Template:
    """A world as it is before an attack: folder and database, to be put back."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.live = folder / "live"
        self.saved = folder / "saved"
        self.uri = uri

    def environment(self, monkeypatch) -> None:
        monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
        monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(self.live / "keys"))
        monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", (self.live / "content").as_uri())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.live}/mlflow.db")
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def build(self, empty_database) -> None:
        """Make Production and @champion version 1 by right; version 2 has shown nothing."""
        from mlflow_agent_plugin.registry import approve, request_promotion

        self.live.mkdir()
        shutil.copy(empty_database, self.live / "mlflow.db")
        world = World(self.live, self.uri)
        world.register("one")
        world.ready(1, "Production")
        world.client.transition_model_version_stage("shelf", "1", "Production")
        request_promotion("shelf", 1, to="@champion", client=world.client)
        approve("shelf", 1, to="@champion", by="alice", client=world.client)
        world.client.set_registered_model_alias("shelf", "champion", "1")
        world.register("two")
        self._release(world)
        shutil.copytree(self.live, self.saved)
        self._database(save=True)

    def restore(self) -> World:
        world = World(self.live, self.uri)
        self._release(world)
        shutil.rmtree(self.live)
        shutil.copytree(self.saved, self.live)
        self._database(save=False)
        return World(self.live, self.uri)

    def _release(self, world: World) -> None:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

        transactions = world.store._transactions
        if transactions._audit is not None:
            transactions._audit._store.close()
            transactions._audit = None
        for engine in [*Registry._engine_map.values(), *Tracking._engine_map.values()]:
            engine.dispose()

    def _database(self, *, save: bool) -> None:
        if "postgresql" not in self.uri:
            return
        import psycopg

        server, _, name = self.uri.removeprefix("agents+").rpartition("/")
        source, target = (name, f"{name}_saved") if save else (f"{name}_saved", name)
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)')
            admin.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')


@pytest.fixture(scope="session", params=DATABASES)
def template(request, tmp_path_factory, empty_mlflow_database):
    """Build the template once per database."""
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    uri = f"agents+sqlite:///{folder}/live/mlflow.db"
    if request.param == "postgresql":
        import psycopg

        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute('CREATE DATABASE "guarded"')
        uri = f"agents+{server}/guarded"
    made = Template(folder, uri)
    with pytest.MonkeyPatch.context() as patch:
        made.environment(patch)
        made.build(empty_mlflow_database)
    return made


@pytest.fixture
def guarded(template, monkeypatch):
    """Give a world whose Production and @champion are version 1; version 2 has shown nothing."""
    template.environment(monkeypatch)
    return template.restore()
