"""The console's routes put together, and its files."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mlflow_agent_plugin.interaction.web.console import (
    agents,
    approvals,
    audit,
    requests,
    safety,
    signals,
    trials,
)
from mlflow_agent_plugin.interaction.web.console.views import missing

_SCRIPTS = {
    "/htmx.js": ("django_htmx", "static/django_htmx/htmx-2.min.js"),
    "/mermaid.js": ("diagram_renderer", "renderers/static/js/mermaid.min.js"),
}
"""As packages ship them: htmx keeps queues fresh, mermaid draws graphs. Pages work without."""


def console_app() -> Starlette:
    """Return the console as an app of its own."""
    here = Path(str(files("mlflow_agent_plugin.interaction.web") / "static"))
    return Starlette(
        routes=[
            *(Route(path, _script) for path in _SCRIPTS),
            Mount("/static", StaticFiles(directory=here), name="static"),
            *agents.ROUTES,
            *requests.ROUTES,
            *trials.ROUTES,
            *approvals.ROUTES,
            *audit.ROUTES,
            *safety.ROUTES,
            *signals.ROUTES,
        ],
        exception_handlers={HTTPException: missing},
    )


def _script(request: Request) -> Response:
    package, path = _SCRIPTS[request.url.path[request.url.path.rindex("/") :]]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return PlainTextResponse("", 404)
    script = Path(spec.origin).parent / path
    if not script.is_file():
        return PlainTextResponse("", 404)
    headers = {"Cache-Control": "max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(script, 200, headers, "text/javascript")
