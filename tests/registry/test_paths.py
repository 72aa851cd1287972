"""The table of the registry's methods is whole and is what the reference shows."""

from __future__ import annotations

from pathlib import Path

from mlflow_agent_plugin.registry.paths import PATHS, Treatment, as_markdown

NOT_METHODS = {"CREATE_MODEL_VERSION_RETRIES", "supports_workspaces"}


def test_every_public_method_of_mlflows_store_has_its_treatment():
    from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

    public = {name for name in dir(WorkspaceAwareSqlAlchemyStore) if not name.startswith("_")}
    assert public - NOT_METHODS == set(PATHS)


def test_what_is_gated_refused_or_verified_is_overridden():
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    from mlflow_agent_plugin.registry.sql_store import GatedSqlStore, GatedWorkspaceStore

    for name, (treatment, _) in PATHS.items():
        special = treatment in {Treatment.GATED, Treatment.REFUSED, Treatment.VERIFIED}
        for kind in (GatedSqlStore, GatedWorkspaceStore):
            assert (getattr(kind, name) is not getattr(SqlAlchemyStore, name)) is special, name


def test_the_store_adds_no_public_method_of_its_own():
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    from mlflow_agent_plugin.registry.sql_store import GatedSqlStore

    assert {n for n in dir(GatedSqlStore) if not n.startswith("_")} == {
        n for n in dir(SqlAlchemyStore) if not n.startswith("_")
    }


def test_the_reference_page_is_the_table():
    page = Path(__file__).parents[2] / "docs" / "reference" / "registry-paths.md"
    assert page.read_text(encoding="utf-8") == as_markdown()
