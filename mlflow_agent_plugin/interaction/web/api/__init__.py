"""The agents' REST API, /api/agents/v1."""

from __future__ import annotations

from mlflow_agent_plugin.interaction.web.api.app import api_app

__all__ = ["api_app"]
