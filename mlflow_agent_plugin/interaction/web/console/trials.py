"""Trying a version: a conversation with it, and the trace of every turn beside it.

A trial is the person's own; who may begin one is who may change the model.
"""

from __future__ import annotations

import os
from functools import lru_cache
from urllib.parse import quote

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlflow_agent_plugin.interaction.trial import Said, TrialDesk, TrialFolder
from mlflow_agent_plugin.interaction.web import TRIAL_VARIABLES_VARIABLE
from mlflow_agent_plugin.interaction.web.console.agents import readable
from mlflow_agent_plugin.interaction.web.console.forms import Form
from mlflow_agent_plugin.interaction.web.console.rendering import go_to, page, trials_allowed
from mlflow_agent_plugin.interaction.web.console.views import change, needs, path_number, show
from mlflow_agent_plugin.interaction.web.people import Person, may_change_model
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.lifecycle.feedback import MAX_COMMENT_CHARS, MAX_INTENT_CHARS
from mlflow_agent_plugin.registry.overview import open_model


def begin(request: Request, person: Person, form: Form) -> Response:
    """Begin a trial of a version."""
    del form
    name, version = readable(request, person), path_number(request, "version")
    needs(
        trials_allowed(), "Versions are not tried on this server (mlflow-agents server --trials)."
    )
    needs(may_change_model(person, name), f"You may not try {name}: that takes EDIT on the model.")
    with open_model(name, version, client=records().client) as content:
        made = _desk().begin(
            content,
            user=person.actor.user,
            tenant=person.actor.tenant,
            model=name,
            version=version,
        )
    return go_to(request, f"/trials/{made.card().trial_id}", "Say something to it.")


def one(request: Request, person: Person) -> Response:
    """Show the conversation, and the trace of the turn that is looked at."""
    folder = _own(request, person)
    turns = folder.turns()
    asked = request.query_params.get("turn", "")
    chosen = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 4 else len(turns)
    return page(
        request,
        person,
        "trial.html",
        title=f"Trial of {folder.card().model}",
        trial=folder.card(),
        turns=turns,
        chosen=min(max(chosen, 1), len(turns)),
        last=turns[-1] if turns else None,
    )


def say(request: Request, person: Person, form: Form) -> Response:
    """Say something to the version, or answer a call of its that waits."""
    folder = _own(request, person)
    try:
        said = Said(
            text=form.text("text"),
            user=form.text("user") or "somebody",
            roles=tuple(part.strip() for part in form.text("roles").split(",") if part.strip()),
            verified=bool(form.text("verified")),
            approval_id=form.text("approval_id") or None,
            yes=form.text("answer") == "yes",
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise HTTPException(400, f"{first['loc'][0]}: {first['msg']}.") from error
    _desk().say(folder, said)
    return go_to(request, f"/trials/{folder.card().trial_id}", "")


def rate(request: Request, person: Person, form: Form) -> Response:
    """Keep what the person thinks of an answer, as feedback on its request."""
    from mlflow_agent_plugin.interaction.trial.rating import rate_turn

    folder = _own(request, person)
    card, thumb, turn = folder.card(), form.text("thumb"), form.text("turn")
    needs(may_change_model(person, card.model), f"You may not rate {card.model} any more.")
    if thumb not in ("", "up", "down") or not (turn.isascii() and turn.isdecimal()):
        raise HTTPException(400, "turn is a number, thumb up or down.")
    rate_turn(
        folder,
        int(turn[:4]),
        by=person.actor,
        up=None if not thumb else thumb == "up",
        intent=form.text("intent")[:MAX_INTENT_CHARS],
        comment=form.text("comment")[:MAX_COMMENT_CHARS],
        tracking_uri=records().client.tracking_uri,
    )
    return go_to(request, f"/trials/{card.trial_id}", "Kept as feedback.", turn=str(int(turn[:4])))


def end(request: Request, person: Person, form: Form) -> Response:
    """End a trial, and remove what was said."""
    del form
    folder = _own(request, person)
    card = folder.card()
    _desk().end(folder)
    model = quote(card.model, safe="")
    return go_to(request, f"/models/{model}/versions/{card.version}", "The trial is over.")


def _own(request: Request, person: Person) -> TrialFolder:
    return _desk().find(
        str(request.path_params["trial_id"]), user=person.actor.user, tenant=person.actor.tenant
    )


@lru_cache(maxsize=1)
def _desk() -> TrialDesk:
    named = os.environ.get(TRIAL_VARIABLES_VARIABLE, "").split(",")
    return TrialDesk(tuple(name.strip() for name in named if name.strip()))


ROUTES: list[Route] = [
    change("/models/{name}/versions/{version}/try", begin),
    show("/trials/{trial_id}", one),
    change("/trials/{trial_id}/say", say),
    change("/trials/{trial_id}/rate", rate),
    change("/trials/{trial_id}/end", end),
]
