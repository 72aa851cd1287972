"""One version of an agent, loaded, and in use by turns.

A version that is replaced closes when its last turn has ended, and not at once then either: a turn
that was just given to it may not have begun. Whoever replaced it sweeps a moment later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.errors import StoppedError
from mlflow_agent_plugin.lifecycle.rollout import CallTape


class LoadedVersion:
    """An opened runtime with its users counted.

    Attributes:
        runtime: The opened agent.
        version: Registered version, None if it has none.
        tape: Hears what the tools answered.
    """

    def __init__(
        self, runtime: AgentRuntime, *, version: str | None = None, tape: CallTape | None = None
    ) -> None:
        self.runtime = runtime
        self.version = version if version is not None else runtime.version
        self.tape = tape or CallTape()
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @classmethod
    def load(cls, uri: str, settings: Settings) -> LoadedVersion:
        """Download, check and open the agent behind a model URI.

        Raises:
            AgentError: It is not what was logged, was not promoted, or does not open.
        """
        from mlflow_agent_plugin.core import fetch_bundle

        version = version_of(uri)
        tape = CallTape()
        runtime = AgentRuntime.open(
            fetch_bundle(uri), settings=settings, version=version, tool_wrapper=tape.wrap
        )
        return cls(runtime, version=version, tape=tape)

    @property
    def name(self) -> str:
        """The agent's own name."""
        return self.runtime.bundle.manifest.name

    @property
    def digest(self) -> str:
        """Digest of its bundle."""
        return self.runtime.bundle.digest.value

    @contextmanager
    def use(self) -> Iterator[AgentRuntime]:
        """Keep it open while the block runs.

        Raises:
            StoppedError: It was closed in the meantime.
        """
        with self._lock:
            if self._closed:
                raise StoppedError("this version is no longer served", hint="Try again.")
            self._users += 1
        try:
            yield self.runtime
        finally:
            with self._lock:
                self._users -= 1

    def close(self) -> None:
        """Close it now."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.runtime.close()

    def close_if_unused(self) -> bool:
        """Close it if nobody uses it; return whether it is closed."""
        with self._lock:
            if self._closed:
                return True
            if self._users:
                return False
            self._closed = True
        self.runtime.close()
        return True


class Leaving:
    """Versions that were replaced, until their turns have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[LoadedVersion] = []
        self._old: list[LoadedVersion] = []

    def add(self, version: LoadedVersion) -> None:
        """Let a version go."""
        with self._lock:
            self._new.append(version)

    def sweep(self) -> None:
        """Close what left before the last sweep and is not used any more."""
        with self._lock:
            due, self._old, self._new = self._old, self._new, []
        still = [version for version in due if not version.close_if_unused()]
        with self._lock:
            self._old += still

    def close(self) -> None:
        """Close all of them now."""
        with self._lock:
            left, self._old, self._new = [*self._old, *self._new], [], []
        for version in left:
            version.close()


def version_of(uri: str) -> str | None:
    """Return the registered version behind a model URI, None if it names none."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import get_model_name_and_version
    from mlflow.tracking import MlflowClient

    if not uri.startswith("models:/"):
        return None
    try:
        return str(get_model_name_and_version(MlflowClient(), uri)[1])
    except MlflowException:
        return None


def slot_of_uri(uri: str) -> tuple[str, str] | None:
    """Return model and slot a URI names, None for anything that does not move."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import _parse_model_uri

    from mlflow_agent_plugin.core.promoted import slot_of

    if not uri.startswith("models:/"):
        return None
    try:
        slot = slot_of(uri)
        return None if slot is None else (str(_parse_model_uri(uri).name), str(slot))
    except MlflowException:
        return None


def slot_uri(model: str, slot: str) -> str:
    """Return the model URI of a slot."""
    return f"models:/{model}{slot}" if slot.startswith("@") else f"models:/{model}/{slot}"
