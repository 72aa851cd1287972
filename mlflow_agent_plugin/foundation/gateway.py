"""MLflow AI Gateway as a model provider: an endpoint of an MLflow server plans.

Rules:
- The model's name is the endpoint's. Where the server is says ``settings.gateway_uri``, or
  ``MLFLOW_GATEWAY_URI``, or the tracking server: the same bundle works on every stage.
- Keys of the LLM's provider stay on the server. This process sends what MLflow's own clients send:
  ``MLFLOW_TRACKING_TOKEN``, or ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``, and never a
  provider's key that happens to be in the environment.
- Budgets, guardrails and fallbacks of the endpoint hold beside the agent's own.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.manifest import ModelSpec

MLFLOW_GATEWAY = "mlflow-gateway"
ROUTE = "/gateway/mlflow/v1"

_OWN = {
    "base_url": "gateway_uri, or MLFLOW_GATEWAY_URI",
    "default_headers": "MLflow's own credentials in the environment",
}


def gateway_settings(spec: ModelSpec, where: str) -> dict[str, Any]:
    """Return the settings LangChain's OpenAI model gets for a gateway endpoint.

    Args:
        spec: The manifest's model.
        where: Its place, for errors.

    Raises:
        ConfigError: A setting is refused, or nothing says where the server is.
    """
    settings = dict(spec.settings)
    for name, instead in _OWN.items():
        if name in settings:
            raise ConfigError(
                f"{name} is not a setting of {MLFLOW_GATEWAY}",
                where=f"{where}.settings.{name}",
                hint=f"Use {instead}.",
            )
    uri = settings.pop("gateway_uri", None) or os.environ.get("MLFLOW_GATEWAY_URI")
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not isinstance(uri, str) or not uri.startswith(("http://", "https://")):
        raise ConfigError(
            "nothing says where the MLflow server with the AI Gateway is",
            where=f"{where}.settings.gateway_uri",
            hint="Set MLFLOW_GATEWAY_URI to its address, e.g. https://mlflow.example.com.",
        )
    return {
        **settings,
        "base_url": uri.rstrip("/") + ROUTE,
        # The client wants one; the server looks at the header below, if it looks at any.
        "api_key": "mlflow",
        "default_headers": _credentials(),
    }


def _credentials() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return {"Authorization": f"Bearer {token}"}
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{n}") for n in ("USERNAME", "PASSWORD"))
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    return {}
