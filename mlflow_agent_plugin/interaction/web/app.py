"""MLflow's server with login, the gated registry, the review console and the agents' API.

    mlflow server --app-name agents --registry-store-uri agents+sqlite:///mlflow.db …

Entry point ``mlflow.app``: ``agents``. `mlflow-agents server` calls it with everything set.

Rules:
- MLflow's own app stays as it is; what is added lies below ``/agents`` (pages) and
  ``/api/agents/v1`` (API), before MLflow's catch-all.
- A registry without a gate is refused at start: a console that promotes past nothing would mislead.
- ``MLFLOW_AGENTS_SERVER_LOGIN=false`` leaves the login away, for a machine of one's own.
"""

from __future__ import annotations

import os
from typing import Any

from mlflow_agent_plugin.errors import ConfigError


def create_app(app: Any = None) -> Any:
    """Return MLflow's app with console and API; MLflow calls it in every worker.

    Args:
        app: MLflow's Flask app; default: the one of this process.

    Raises:
        ConfigError: The registry is not a gated one, or the server is not uvicorn.
    """
    from starlette.routing import Mount

    from mlflow_agent_plugin.interaction.web.api import api_app
    from mlflow_agent_plugin.interaction.web.console import console_app
    from mlflow_agent_plugin.interaction.web.people import login_required
    from mlflow_agent_plugin.registry.places import CONSOLE_VARIABLE

    _check_registry()
    if login_required():
        from mlflow.server.auth import create_app as with_login

        made = with_login() if app is None else with_login(app)
    else:
        from mlflow.server import app as flask_app
        from mlflow.server.fastapi_app import create_fastapi_app

        made = create_fastapi_app(flask_app if app is None else app)
    if not hasattr(made, "router"):
        raise ConfigError(
            "the agents app runs under uvicorn only",
            where="mlflow server",
            hint="Leave --gunicorn-opts and --waitress-opts away.",
        )
    prefix = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")
    # The registry then says on each version where the console shows it.
    os.environ[CONSOLE_VARIABLE] = f"{prefix}/agents"
    made.router.routes[:0] = [
        Mount(f"{prefix}/api/agents/v1", api_app(), name="agents-api"),
        Mount(f"{prefix}/agents", console_app(), name="agents-console"),
    ]
    return made


def _check_registry() -> None:
    uri = os.environ.get("_MLFLOW_SERVER_REGISTRY_STORE", "")
    if not uri.startswith("agents+"):
        raise ConfigError(
            "the agents app needs the gated registry",
            where="mlflow server --registry-store-uri",
            hint="Put agents+ before the database's URL, e.g. agents+sqlite:///mlflow.db.",
        )
