"""The registry's own tags, where MLflow's pages, search and clients show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session


class TagBoard:
    """Writes tags of one registered model in an open session, past the clients' checks."""

    MODEL_VALUE_CHARS = 4900
    """MLflow's column for tags of models holds 5000 characters."""

    VERSION_VALUE_BYTES = 60_000
    """The smallest column for tags of versions is MySQL's TEXT."""

    def __init__(self, session: Session, workspace: str, name: str) -> None:
        self._session = session
        self._workspace = workspace
        self._name = name

    def set_version(self, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag

        while len(value.encode("utf-8")) > self.VERSION_VALUE_BYTES:
            value = value[: len(value) * 3 // 4]
        self._session.merge(
            SqlModelVersionTag(
                workspace=self._workspace,
                name=self._name,
                version=version,
                key=key[:250],
                value=value,
            )
        )

    def set_model(self, key: str, value: str) -> None:
        """Set a tag of the model."""
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelTag

        self._session.merge(
            SqlRegisteredModelTag(
                workspace=self._workspace,
                name=self._name,
                key=key[:250],
                value=value[: self.MODEL_VALUE_CHARS],
            )
        )

    def drop_model(self, key: str) -> None:
        """Remove a tag of the model."""
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelTag

        self._delete(SqlRegisteredModelTag, lambda found: found == key)

    def versions_with(self, key: str) -> set[int]:
        """Return the versions that have a tag."""
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag as Tag

        self._session.flush()
        found = self._session.query(Tag.version).filter(
            Tag.workspace == self._workspace, Tag.name == self._name, Tag.key == key
        )
        return {int(row.version) for row in found}

    def drop_version(self, version: int, key: str) -> None:
        """Remove a tag of a version."""
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag as Tag

        self._session.query(Tag).filter(
            Tag.workspace == self._workspace,
            Tag.name == self._name,
            Tag.version == version,
            Tag.key == key,
        ).delete()

    def purge(self, reserved: Any) -> None:
        """Remove the tags somebody wrote below our names before they were ours."""
        from mlflow.store.model_registry.dbmodels.models import (
            SqlModelVersionTag,
            SqlRegisteredModelTag,
        )

        for table in (SqlRegisteredModelTag, SqlModelVersionTag):
            self._delete(table, reserved)

    def _delete(self, table: Any, wanted: Any) -> None:
        found: Iterable[Any] = (
            self._session.query(table)
            .filter(table.workspace == self._workspace, table.name == self._name)
            .all()
        )
        for row in list(found):
            if wanted(row.key):
                self._session.delete(row)
        self._session.flush()
