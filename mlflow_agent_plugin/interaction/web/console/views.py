"""What every page has in common: who asks, the form's token, and errors as pages.

Rules:
- A view runs in a worker thread, as the person who asked: the registry sees that person.
- Whatever a view raises becomes a page; nothing is half shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlflow_agent_plugin.interaction.web.console.forms import Form, read_form
from mlflow_agent_plugin.interaction.web.console.rendering import page
from mlflow_agent_plugin.interaction.web.errors import explain
from mlflow_agent_plugin.interaction.web.people import Person, acting, identify

_logger = logging.getLogger(__name__)

View: TypeAlias = Callable[[Request, Person], Response]
Change: TypeAlias = Callable[[Request, Person, Form], Response]


def show(path: str, view: View) -> Route:
    """Return the route of a page."""

    async def endpoint(request: Request) -> Response:
        return await _answer(request, lambda person: view(request, person))

    return Route(path, endpoint, methods=["GET"])


def change(path: str, view: Change) -> Route:
    """Return the route of a form."""

    async def endpoint(request: Request) -> Response:
        person = await _person(request)
        if isinstance(person, Response):
            return person
        try:
            form = await read_form(request, person)
        except HTTPException as error:
            return _problem(request, person, error.status_code, str(error.detail))
        return await _answer(request, lambda known: view(request, known, form), person)

    return Route(path, endpoint, methods=["POST"])


async def missing(request: Request, error: Exception) -> Response:
    """Answer what no route fits, or a method it does not take."""
    assert isinstance(error, HTTPException)
    person = await _person(request)
    if isinstance(person, Response):
        return person
    text = "There is no such page." if error.status_code == 404 else str(error.detail)
    return _problem(request, person, error.status_code, text)


async def _person(request: Request) -> Person | Response:
    try:
        return await run_in_threadpool(identify, request)
    except HTTPException as error:
        return PlainTextResponse(str(error.detail), error.status_code, error.headers)
    except Exception:
        _logger.exception("nobody could be identified")
        return PlainTextResponse("The server cannot tell who you are now.", 503)


async def _answer(
    request: Request, run: Callable[[Person], Response], known: Person | None = None
) -> Response:
    person = known or await _person(request)
    if isinstance(person, Response):
        return person
    try:
        return await run_in_threadpool(_as, person, run)
    except Exception as error:
        status, text = explain(error)
        if status == 500:
            _logger.exception("a console page failed")
        return _problem(request, person, status, text)


def _as(person: Person, run: Callable[[Person], Response]) -> Response:
    with acting(person):
        return run(person)


def _problem(request: Request, person: Person, status: int, text: str) -> Response:
    return page(request, person, "error.html", status=status, code=status, text=text)


def number(request: Request, name: str, default: int = 0) -> int:
    """Return a whole number of the query, at least 0.

    Raises:
        HTTPException: 400, it is none.
    """
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise HTTPException(400, f"{name} is a whole number.")
    return int(text)


def text(request: Request, name: str, *, longest: int = 256) -> str:
    """Return a text of the query without spaces around it, empty if it was not given.

    Raises:
        HTTPException: 400, it is too long or holds what no database takes.
    """
    found = request.query_params.get(name, "").strip()
    if len(found) > longest or "\x00" in found:
        raise HTTPException(400, f"{name} is a short text.")
    return found


def path_number(request: Request, name: str) -> int:
    """Return a whole number of the path.

    Raises:
        HTTPException: 404, it is none: there is no such page.
    """
    text = str(request.path_params[name])
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise HTTPException(404, "There is no such page.")
    return int(text)


def needs(allowed: Any, what: str) -> None:
    """Stop unless something is allowed.

    Raises:
        HTTPException: 403.
    """
    if not allowed:
        raise HTTPException(403, what)
