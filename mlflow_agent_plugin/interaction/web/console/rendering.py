"""Templates, and how values look on a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.interaction.web import TRIALS_VARIABLE
from mlflow_agent_plugin.interaction.web.people import Person, form_token, login_required

_NOTHING = "\N{EN DASH}"

_SECURITY = {
    # No script but our own files, no frame around a page that changes what customers get.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self'; img-src 'self' data:; script-src 'self';"
        " frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


# mermaid puts a style sheet into the graph it draws; scripts stay our own files.
_DRAWN = {
    **_SECURITY,
    "Content-Security-Policy": _SECURITY["Content-Security-Policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    ),
}


def trials_allowed() -> bool:
    """Whether this server lets people try versions."""
    return os.environ.get(TRIALS_VARIABLE, "").lower() in ("true", "1")


def page(
    request: Request,
    person: Person,
    template: str,
    /,
    status: int = 200,
    *,
    drawn: bool = False,
    **values: Any,
) -> HTMLResponse:
    """Return a page.

    Args:
        request: The request it answers.
        person: Who looks at it.
        template: File in ``templates/``.
        status: HTTP status.
        drawn: Mermaid draws graphs on it.
        **values: What the template shows.
    """
    text = (
        _environment()
        .get_template(template)
        .render(
            base=request.scope.get("root_path", ""),
            path=request.url.path,
            query=dict(request.query_params),
            person=person,
            # MLflow keeps a role of its own for each user; it says nothing to people
            roles=sorted(role for role in person.actor.roles if not role.startswith("__")),
            login=login_required(),
            token=form_token(person),
            said=request.query_params.get("said", ""),
            plugin_version=__version__,
            now=utc_now(),
            drawn=drawn,
            **values,
        )
    )
    return HTMLResponse(text, status, _DRAWN if drawn else _SECURITY)


def go_to(request: Request, path: str, said: str, **query: str) -> Response:
    """Send the browser to a page, with a line about what was done."""
    base = request.scope.get("root_path", "")
    return RedirectResponse(f"{base}{path}?{urlencode({**query, 'said': said})}", 303)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=PackageLoader("mlflow_agent_plugin.interaction.web", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        when=_when, short=short, pretty=_pretty, percent=_percent, amount=_amount, diff=_diff
    )
    made.filters["merged"] = _merged
    made.globals["link"] = _link
    return made


def _when(value: datetime | str | None) -> str:
    if value is None:
        return _NOTHING
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def short(digest: str | None) -> str:
    """Return the beginning of a digest, enough to tell two apart."""
    if not digest:
        return _NOTHING
    return digest.removeprefix("sha256:")[:12]


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def _amount(value: float | None, unit: str = "") -> str:
    if value is None:
        return _NOTHING
    if unit == "rate":
        return _percent(value)
    if unit == "count" or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3f}"


def _diff(text: str) -> list[tuple[str, str]]:
    """Return a unified diff's lines, each with the name of its kind."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [
        ("head" if line.startswith(("+++", "---")) else kinds.get(line[:1], "same"), line)
        for line in text.splitlines()
    ]


def _merged(query: Mapping[str, str], **changes: object) -> str:
    """Return a page's query with some values replaced, without what was said."""
    wanted = {**query, **changes}
    wanted.pop("said", None)
    return urlencode({name: value for name, value in wanted.items() if value not in (None, "", 0)})


def _link(base: str, *parts: object, **query: object) -> str:
    """Return the address of a page; parts and query are spelled safely."""
    from urllib.parse import quote

    path = "/".join(quote(str(part), safe="") for part in parts)
    wanted: Mapping[str, object] = {k: v for k, v in query.items() if v not in (None, "")}
    return f"{base}/{path}" + (f"?{urlencode(wanted)}" if wanted else "")
