"""An agent loaded for use in a notebook or a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.flavor import fetch_bundle
from mlflow_agent_plugin.core.runtime import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentReply, AgentRequest
from mlflow_agent_plugin.trust import local_actor

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle


class LoadedAgent:
    """A verified agent, opened on first use.

    Attributes:
        bundle: Its content.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._runtime: AgentRuntime | None = None

    def runtime(self, **options: Any) -> AgentRuntime:
        """Open a runtime of its own; options as for `AgentRuntime.open`."""
        return AgentRuntime.open(self.bundle, **options)

    def ask(
        self, text: str, *, session_id: str | None = None, actor: Actor | None = None
    ) -> AgentReply:
        """Take one turn as `actor` (default: the unverified local user)."""
        if self._runtime is None:
            self._runtime = self.runtime()
        return self._runtime.invoke(
            AgentRequest(
                text=text,
                session_id=session_id,
                actor=actor or local_actor(Settings.from_env()),
            )
        )

    def close(self) -> None:
        """Close what `ask` opened."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None


def load_agent(model_uri: str) -> LoadedAgent:
    """Load an agent by any MLflow model URI; content that changed since it was logged is refused.

    Raises:
        IntegrityError: The content is not what was logged.
        BundleError: The model is not an agent.
    """
    return LoadedAgent(fetch_bundle(model_uri))
