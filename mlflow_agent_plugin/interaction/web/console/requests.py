"""Promotion requests, and everything a reviewer does to a slot.

Each form calls the same function as the command line and the Python API; the gate decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlflow_agent_plugin import registry
from mlflow_agent_plugin.interaction.web.console.agents import readable
from mlflow_agent_plugin.interaction.web.console.forms import Form
from mlflow_agent_plugin.interaction.web.console.rendering import go_to, page
from mlflow_agent_plugin.interaction.web.console.views import (
    change,
    needs,
    number,
    path_number,
    show,
    text,
)
from mlflow_agent_plugin.interaction.web.people import (
    Person,
    login_required,
    may_change_model,
    may_read_model,
)
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.registry.overview import list_requests

STATES = ("open", "executed", "rejected", "withdrawn", "superseded", "expired")


def requests(request: Request, person: Person) -> Response:
    """Show promotion requests of all agents."""
    return page(
        request, person, "requests.html", title="Promotion requests", **_found(request, person)
    )


def request_rows(request: Request, person: Person) -> Response:
    """Return the table alone, for the page that keeps it fresh."""
    return page(request, person, "requests_rows.html", **_found(request, person))


def _found(request: Request, person: Person) -> dict[str, Any]:
    state = request.query_params.get("state") or "open"
    if state not in STATES:
        raise HTTPException(400, f"state is one of {', '.join(STATES)}.")
    wanted, asked_by = text(request, "q"), text(request, "by")
    found = list_requests(
        state=state,
        contains=wanted,
        requested_by=asked_by,
        offset=number(request, "offset"),
        client=records().client,
    )
    return {
        "found": found,
        "rows": [row for row in found.rows if may_read_model(person, row.name)],
        "state": state,
        "states": STATES,
        "q": wanted,
        "by": asked_by,
    }


def _on_version(
    done: str, run: Callable[[str, int, str, Form, dict[str, Any]], Any]
) -> Callable[[Request, Person, Form], Response]:
    """Return the view of a form about a version; it says `done`, and what `run` returns as text."""

    def view(request: Request, person: Person, form: Form) -> Response:
        name, version = readable(request, person), path_number(request, "version")
        needs(may_change_model(person, name), f"You may not change {name}.")
        to = form.required("to", "the stage or alias")
        more = run(name, version, to, form, _extras(form))
        said = " ".join([done, more] if isinstance(more, str) else [done])
        said = said.format(name=name, version=version, to=to)
        return go_to(request, f"/models/{_quoted(name)}/versions/{version}", said, to=to)

    return view


def _on_slot(
    done: str, run: Callable[[str, str, Form, dict[str, Any]], Any]
) -> Callable[[Request, Person, Form], Response]:
    def view(request: Request, person: Person, form: Form) -> Response:
        name = readable(request, person)
        needs(may_change_model(person, name), f"You may not change {name}.")
        to = form.required("to", "the stage or alias")
        run(name, to, form, _extras(form))
        return go_to(request, f"/models/{_quoted(name)}", done.format(name=name, to=to))

    return view


def _extras(form: Form) -> dict[str, Any]:
    """Return the client, and the name given where nobody logs in; the gate decides if it counts."""
    given = "" if login_required() else form.text("by")
    return {"client": records().client, **({"by": given} if given else {})}


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _approve(name: str, version: int, to: str, form: Form, extras: dict[str, Any]) -> str:
    found = registry.approve(name, version, to=to, comment=form.text("comment"), **extras)
    if found.applied:
        return "{to} is version {version} now."
    return "{to} was not moved: the gate and the request below say why."


def _promote(name: str, version: int, to: str, _form: Form, extras: dict[str, Any]) -> None:
    registry.promote(name, version, to=to, client=extras["client"])


def _rollback(name: str, to: str, form: Form, extras: dict[str, Any]) -> None:
    text = form.text("version")
    wanted = int(text) if text.isascii() and text.isdecimal() else None
    reason = form.required("reason", "a reason")
    registry.rollback(name, to=to, reason=reason, version=wanted, **extras)


ROUTES: list[Route] = [
    show("/requests", requests),
    show("/requests/rows", request_rows),
    change(
        "/models/{name}/versions/{version}/request",
        _on_version(
            "Asked to promote version {version} to {to}.",
            lambda name, version, to, form, extras: registry.request_promotion(
                name,
                version,
                to=to,
                comment=form.text("comment"),
                apply=not form.text("hold"),
                **extras,
            ),
        ),
    ),
    change(
        "/models/{name}/versions/{version}/approve",
        _on_version("Approved version {version} for {to}.", _approve),
    ),
    change(
        "/models/{name}/versions/{version}/reject",
        _on_version(
            "Rejected version {version} for {to}.",
            lambda name, version, to, form, extras: registry.reject(
                name, version, to=to, reason=form.required("reason", "a reason"), **extras
            ),
        ),
    ),
    change(
        "/models/{name}/versions/{version}/withdraw",
        _on_version(
            "Withdrew the request for version {version}.",
            lambda name, version, to, form, extras: registry.withdraw(
                name, version, to=to, reason=form.required("reason", "a reason"), **extras
            ),
        ),
    ),
    change(
        "/models/{name}/versions/{version}/promote",
        _on_version("{to} is version {version} now.", _promote),
    ),
    change(
        "/models/{name}/versions/{version}/emergency",
        _on_version(
            "{to} is version {version} now, past the gate.",
            lambda name, version, to, form, extras: registry.emergency_promote(
                name, version, to=to, reason=form.required("reason", "a reason"), **extras
            ),
        ),
    ),
    change("/models/{name}/rollback", _on_slot("Rolled {to} back.", _rollback)),
    change(
        "/models/{name}/retire",
        _on_slot(
            "{to} points to nothing now.",
            lambda name, to, form, extras: registry.retire(
                name, to=to, reason=form.required("reason", "a reason"), **extras
            ),
        ),
    ),
]
