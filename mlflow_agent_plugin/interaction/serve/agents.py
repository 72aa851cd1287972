"""The agents a front end answers for, by the names requests give, as they are now.

Rules:
- What is served under a name follows its stage or alias: a promotion or a rollback reaches a
  running front end within `follow_seconds`. A version that does not load is not taken over: what
  runs goes on, and the log and the metrics say so.
- Names come from the command line, or (``--deployments``) from what operators deployed over the
  API; the latter are kept in the store and are the same in every front end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.responses import parse_request
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.errors import IdentityError, RequestError, StoreError
from mlflow_agent_plugin.interaction.serve.versions import Leaving, LoadedVersion, slot_of_uri

if TYPE_CHECKING:
    from mlflow_agent_plugin.interaction.serve.traffic import TakenTurn, Traffic
    from mlflow_agent_plugin.store import Store

_logger = logging.getLogger(__name__)


@dataclass
class Served:
    """What is served under one name.

    Attributes:
        name: In requests.
        uri: MLflow model URI.
        stable: The version that answers.
        model: Registered model and `slot`, None where the URI does not move.
        deployed: It was deployed over the API.
    """

    name: str
    uri: str
    stable: LoadedVersion
    model: str | None = None
    slot: str | None = None
    deployed: bool = False


class ServedAgents:
    """Opened agents by the name requests give.

    Args:
        runtimes: Name to opened runtime.
        settings: Settings of the process.
        uris: Name to the URI it was loaded from, for those that follow it.
    """

    def __init__(
        self,
        runtimes: Mapping[str, AgentRuntime | LoadedVersion],
        settings: Settings,
        uris: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        self._leaving = Leaving()
        self.traffic: Traffic | None = None
        self.store: Store | None = None
        for name, runtime in runtimes.items():
            loaded = runtime if isinstance(runtime, LoadedVersion) else LoadedVersion(runtime)
            self._served[name] = _served(name, (uris or {}).get(name, ""), loaded)

    @classmethod
    def load(cls, uris: Mapping[str, str]) -> ServedAgents:
        """Load every agent; one that does not load stops the start.

        Raises:
            AgentError: An agent is not what was logged, was not promoted, or does not open.
        """
        settings = Settings.from_env()
        opened: dict[str, LoadedVersion] = {}
        try:
            for name, uri in uris.items():
                opened[name] = LoadedVersion.load(uri, settings)
        except BaseException:
            for version in opened.values():
                version.close()
            raise
        return cls(opened, settings, uris)

    @property
    def settings(self) -> Settings:
        """Settings the agents were opened with."""
        return self._settings

    @property
    def names(self) -> list[str]:
        """Names in the order they were given."""
        return list(self._served)

    def served(self) -> list[Served]:
        """Return what is served now."""
        return list(self._served.values())

    def digest(self, name: str) -> str:
        """Return the digest of an agent's bundle."""
        return self._served[name].stable.digest

    def pick(self, name: object) -> Served:
        """Return what a request's ``model`` names; the only agent needs no name.

        Raises:
            RequestError: There is none of that name, or none was given and there are several.
        """
        known = self._served
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        found = known.get(name) if isinstance(name, str) else None
        if found is None:
            names = ", ".join(known) or "none"
            raise RequestError(
                "names no agent that is served here", where="model", hint=f"Known: {names}."
            )
        return found

    @contextmanager
    def take(self, served: Served, request: AgentRequest) -> Iterator[TakenTurn]:
        """Give the turn to the version that is to take it, for the block."""
        from mlflow_agent_plugin.interaction.serve.traffic import TakenTurn

        if self.traffic is not None and served.slot is not None:
            with self.traffic.take(served, request) as taken:
                yield taken
            return
        with served.stable.use() as runtime:
            yield TakenTurn(runtime, request, served.stable.version)

    def parse(self, payload: Any, actor: Actor) -> AgentRequest:
        """Return the turn a Responses request asks for, on behalf of who was authenticated.

        Raises:
            RequestError: The request has the wrong shape.
            IdentityError: It claims an identity of its own.
        """

        def known(token: str | None) -> Actor:
            if token is not None:
                raise IdentityError(
                    "identity comes from the Authorization header here",
                    where="custom_inputs.actor_token",
                )
            return actor

        return parse_request(payload, settings=self._settings, actor=known)

    def check(self) -> None:
        """Check that the runtime store answers.

        Raises:
            StoreError: It does not.
        """
        from sqlalchemy import text

        stores = [served.stable.runtime.store for served in self.served()]
        for store in [*stores, *([] if self.store is None else [self.store])]:
            # A pool may hold a connection of before the database went away; that one is thrown out
            # by failing, and says nothing about now.
            for last in (False, True):
                try:
                    with store.read() as connection:
                        connection.execute(text("SELECT 1"))
                    break
                except StoreError:
                    if last:
                        raise

    # --- change ----------------------------------------------------------------------------------

    def put(self, name: str, uri: str, version: LoadedVersion, *, deployed: bool) -> None:
        """Serve a loaded version under a name; what was there leaves when its turns have ended."""
        with self._lock:
            before = self._served.get(name)
            self._served = {**self._served, name: _served(name, uri, version, deployed=deployed)}
        if before is not None and before.stable is not version:
            self._leaving.add(before.stable)

    def drop(self, name: str) -> None:
        """Serve nothing under a name any more."""
        with self._lock:
            rest = dict(self._served)
            before = rest.pop(name, None)
            self._served = rest
        if before is not None:
            self._leaving.add(before.stable)

    def sweep(self) -> None:
        """Close versions that were replaced a while ago and have no turns any more."""
        self._leaving.sweep()

    def follow(self, served: Served) -> bool:
        """Take over what the stage or alias points to now; return whether that is another version.

        Raises:
            Exception: The registry does not answer, or the version does not load.
        """
        from mlflow_agent_plugin.lifecycle.rollout import slot_version

        if served.model is None or served.slot is None:
            return False
        now = slot_version(served.model, served.slot)
        if now is None or str(now) == served.stable.version:
            return False
        version = LoadedVersion.load(served.uri, self._settings)
        self.put(served.name, served.uri, version, deployed=served.deployed)
        _logger.warning(
            "%s: version %s takes over from %s", served.name, version.version, served.stable.version
        )
        return True

    def close(self) -> None:
        """Close every agent."""
        self._leaving.close()
        for served in self.served():
            served.stable.close()


def _served(name: str, uri: str, version: LoadedVersion, *, deployed: bool = False) -> Served:
    model, slot = slot_of_uri(uri) or (None, None)
    return Served(name, uri, version, model=model, slot=slot, deployed=deployed)
