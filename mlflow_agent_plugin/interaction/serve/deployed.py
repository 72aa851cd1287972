"""Agents operators deployed over the API: kept in the store, served by every front end.

Rules:
- A deployment is loaded before it is kept: one that does not load is refused, nothing changes.
- Names given on the command line are not deployments and cannot be changed here.
- Every change is audited in its own transaction.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.errors import NotFoundError, RequestError
from mlflow_agent_plugin.interaction.serve.versions import LoadedVersion
from mlflow_agent_plugin.store.tables import deployments
from mlflow_agent_plugin.trust import AuditKind, AuditLog

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
    from mlflow_agent_plugin.store import Store

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
MAX_URI_CHARS = 2000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """One agent that is served under a name."""

    name: str
    model_uri: str
    config: dict[str, Any]
    changed_by: str
    changed_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "name": self.name,
            "model_uri": self.model_uri,
            "config": self.config,
            "changed_by": self.changed_by,
            "changed_at": self.changed_at.isoformat(timespec="seconds"),
        }


class Deployed:
    """The deployments of a store, as one front end serves them.

    Args:
        store: Where they are kept.
        agents: What this process serves.
        fixed: Names given on the command line.
    """

    def __init__(self, store: Store, agents: ServedAgents, fixed: Sequence[str]) -> None:
        self._store = store
        self._agents = agents
        self._fixed = frozenset(fixed)
        self._audit = AuditLog(store)
        self._changing = threading.Lock()
        self._known: dict[str, str] = {}

    def list(self) -> list[Deployment]:
        """Return all deployments, by name."""
        with self._store.read() as connection:
            rows = connection.execute(select(deployments).order_by(deployments.c.name)).all()
        return [_read(row) for row in rows]

    def get(self, name: str) -> Deployment:
        """Return a deployment.

        Raises:
            NotFoundError: There is none of that name.
        """
        with self._store.read() as connection:
            return self._find(connection, name)

    def put(
        self, name: str, uri: str, config: dict[str, Any], *, by: Actor, create: bool
    ) -> Deployment:
        """Serve an agent under a name, here at once and elsewhere within a look.

        Args:
            name: In requests.
            uri: MLflow model URI.
            config: Kept beside it for operators; decides nothing.
            by: Who does it.
            create: The name is new; else it is not.

        Raises:
            RequestError: The name is taken or none, or the URI is none.
            NotFoundError: There is nothing to update.
            AgentError: The agent does not load.
        """
        if not NAME.fullmatch(name):
            raise RequestError("is not a name", where="name", hint="Use letters, digits, ., _, -.")
        if not uri.startswith("models:/") or len(uri) > MAX_URI_CHARS:
            raise RequestError(
                "is not a URI of the registry",
                where="model_uri",
                hint="E.g. models:/support@champion.",
            )
        if name in self._fixed:
            raise RequestError(f"{name} was given on the command line", where="name")
        self._check_exists(name, wanted=not create)
        with self._changing:
            version = LoadedVersion.load(uri, self._agents.settings)
            try:
                found = self._keep(name, uri, config, by=by, create=create)
            except BaseException:
                version.close()
                raise
            self._known[name] = uri
            self._agents.put(name, uri, version, deployed=True)
        return found

    def delete(self, name: str, *, by: Actor) -> None:
        """Serve nothing under a name any more; a name that is not there is no error."""
        if name in self._fixed:
            raise RequestError(f"{name} was given on the command line", where="name")
        with self._changing:
            with self._audit.transaction() as transaction:
                gone = transaction.connection.execute(
                    delete(deployments).where(deployments.c.name == name)
                )
                if gone.rowcount:
                    transaction.append(
                        AuditKind.DEPLOYMENT_CHANGED, actor=by, deployment=name, change="deleted"
                    )
            if self._known.pop(name, None) is not None:
                self._agents.drop(name)

    def follow(self) -> None:
        """Serve what the store says now; what does not load is logged and tried again.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._changing:
            # Read behind the lock: a change made here meanwhile would look like one to undo.
            wanted = {item.name: item.model_uri for item in self.list()}
            for name in [name for name in self._known if name not in wanted]:
                del self._known[name]
                self._agents.drop(name)
            failures: list[Exception] = []
            for name, uri in wanted.items():
                if name in self._fixed or self._known.get(name) == uri:
                    continue
                try:
                    version = LoadedVersion.load(uri, self._agents.settings)
                except Exception as error:
                    _logger.warning("deployment %s is not served here: %s", name, error)
                    failures.append(error)
                    continue
                self._known[name] = uri
                self._agents.put(name, uri, version, deployed=True)
        if failures:
            raise failures[0]

    def _check_exists(self, name: str, *, wanted: bool) -> None:
        with self._store.read() as connection:
            there = connection.execute(
                select(deployments.c.name).where(deployments.c.name == name)
            ).first()
        if wanted and there is None:
            raise NotFoundError("there is no such deployment", where=name)
        if not wanted and there is not None:
            raise RequestError("there is a deployment of that name", where=name)

    def _keep(
        self, name: str, uri: str, config: dict[str, Any], *, by: Actor, create: bool
    ) -> Deployment:
        values = {
            "model_uri": uri,
            "config": json.dumps(config),
            "changed_by": by.user,
            "changed_at": utc_now(),
        }
        with self._audit.transaction() as transaction:
            connection = transaction.connection
            if create:
                connection.execute(insert(deployments).values(name=name, **values))
            else:
                connection.execute(
                    update(deployments).where(deployments.c.name == name).values(values)
                )
            transaction.append(
                AuditKind.DEPLOYMENT_CHANGED,
                actor=by,
                deployment=name,
                change="created" if create else "updated",
                model_uri=uri,
            )
            return self._find(connection, name)

    @staticmethod
    def _find(connection: Connection, name: str) -> Deployment:
        row = connection.execute(select(deployments).where(deployments.c.name == name)).first()
        if row is None:
            raise NotFoundError("there is no such deployment", where=name[:128])
        return _read(row)


def _read(row: Any) -> Deployment:
    return Deployment(
        name=row.name,
        model_uri=row.model_uri,
        config=json.loads(row.config),
        changed_by=row.changed_by,
        changed_at=row.changed_at,
    )
