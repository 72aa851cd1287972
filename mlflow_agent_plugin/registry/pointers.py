"""What MLflow's own rows say a slot points to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, and_, func, select

from mlflow_agent_plugin.package.slots import STAGES, Slot


class Pointers:
    """MLflow's rows about one registered model, in one transaction."""

    def __init__(self, connection: Connection, workspace: str, name: str) -> None:
        self._connection = connection
        self._workspace = workspace
        self._name = name

    def model_exists(self) -> bool:
        """Return True if the registered model exists."""
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel as Model

        query = select(Model.name).where(
            Model.workspace == self._workspace, Model.name == self._name
        )
        return self._connection.execute(query).first() is not None

    def exists(self, version: int) -> bool:
        """Return True if the version exists and was not deleted."""
        return self.stage_of(version) is not None

    def stage_of(self, version: int) -> str | None:
        """Return the stage of a version, None if there is no such version."""
        from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version

        query = select(Version.current_stage).where(
            Version.workspace == self._workspace,
            Version.name == self._name,
            Version.version == version,
            Version.current_stage != STAGE_DELETED_INTERNAL,
        )
        found = self._connection.execute(query).scalar()
        return None if found is None else str(found)

    def in_stage(self, stage: str) -> list[int]:
        """Return the versions in a stage, ascending; consumers load the last."""
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version

        query = (
            select(Version.version)
            .where(
                Version.workspace == self._workspace,
                Version.name == self._name,
                Version.current_stage == stage,
            )
            .order_by(Version.version)
        )
        return [int(row.version) for row in self._connection.execute(query)]

    def of(self, slot: Slot) -> int | None:
        """Return the version a consumer of `slot` loads now, None if there is none."""
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias as Alias

        if not slot.is_alias:
            versions = self.in_stage(slot.name)
            return versions[-1] if versions else None
        query = select(Alias.version).where(
            Alias.workspace == self._workspace, Alias.name == self._name, Alias.alias == slot.name
        )
        found = self._connection.execute(query).scalar()
        return None if found is None else int(found)


def read_pointers(
    connection: Connection, workspace: str, names: Collection[str]
) -> dict[str, dict[Slot, int]]:
    """Return what stages and aliases of several models point to, as `Pointers.of` would.

    Models that do not exist are left out.
    """
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel as Model
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias as Alias

    def of(table: Any) -> Any:
        return and_(table.workspace == workspace, table.name.in_(names))

    found: dict[str, dict[Slot, int]] = {
        str(row.name): {} for row in connection.execute(select(Model.name).where(of(Model)))
    }
    staged = (
        select(Version.name, Version.current_stage, func.max(Version.version).label("version"))
        .where(of(Version), Version.current_stage.in_(STAGES))
        .group_by(Version.name, Version.current_stage)
    )
    for row in connection.execute(staged):
        found[row.name][Slot(str(row.current_stage), is_alias=False)] = int(row.version)
    for row in connection.execute(select(Alias.name, Alias.alias, Alias.version).where(of(Alias))):
        found[row.name][Slot(str(row.alias), is_alias=True)] = int(row.version)
    return found
