"""Pages about agents: the list, one model, one version."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.web.console.measured import (
    distribution_plots,
    interval_plot,
    outcome_bar,
    outcome_kinds,
)
from mlflow_agent_plugin.interaction.web.console.rendering import page, trials_allowed
from mlflow_agent_plugin.interaction.web.console.views import number, path_number, show, text
from mlflow_agent_plugin.interaction.web.people import Person, may_change_model, may_read_model
from mlflow_agent_plugin.interaction.web.records import records
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.commands import APPLIED, APPLIED_TAG
from mlflow_agent_plugin.registry.overview import (
    compare_cases,
    compare_evidence,
    compare_versions,
    evidence_runs,
    get_version,
    list_agents,
    list_history,
    list_requests,
    list_versions,
    protected_slots,
    read_graph,
)

_HISTORY = 20


def agents(request: Request, person: Person) -> Response:
    """Show every agent with what its slots point to."""
    wanted = text(request, "q")
    found = list_agents(contains=wanted, offset=number(request, "offset"), client=records().client)
    rows = [row for row in found.rows if may_read_model(person, row.name)]
    return page(request, person, "agents.html", title="Agents", found=found, rows=rows, q=wanted)


def model(request: Request, person: Person) -> Response:
    """Show one model: slots, open requests, versions, history."""
    name = readable(request, person)
    client = records().client
    slots = protected_slots(name, client=client)
    if not slots:
        raise HTTPException(404, f"There is no agent {name}.")
    past = number(request, "past")
    latest = [list_history(name, slot=slot, limit=1, client=client) for slot in slots]
    return page(
        request,
        person,
        "model.html",
        title=name,
        name=name,
        slots=slots,
        waiting=list_requests(name=name, client=client),
        versions=list_versions(
            name,
            author=text(request, "author"),
            digest=text(request, "digest"),
            offset=number(request, "offset"),
            client=client,
        ),
        history=list_history(
            name, slot=text(request, "slot"), offset=past, limit=_HISTORY, client=client
        ),
        history_page=_HISTORY,
        alarms={row.slot: row for found in latest for row in found.rows if row.kind == "emergency"},
        may_change=may_change_model(person, name),
    )


def version(request: Request, person: Person) -> Response:
    """Show one version before one slot: gate, evidence, what changed, requests."""
    import mlflow_agent_plugin as plugin

    name, wanted = readable(request, person), path_number(request, "version")
    client = records().client
    found = get_version(name, wanted, client=client)
    if found is None:
        raise HTTPException(404, f"{name} has no agent version {wanted}.")
    slots = protected_slots(name, client=client)
    to = request.query_params.get("to") or _first(slots)
    if to not in slots:
        raise HTTPException(404, f"{to} is not a protected slot of {name}.")
    incumbent = slots[to]
    other = number(request, "from", incumbent or 0)
    known = client.get_model_version(name, str(wanted))
    cases = compare_cases(name, wanted, incumbent, client=client)
    change, problem, graphs = None, "", {}
    try:
        graphs = {wanted: read_graph(name, wanted, client=client)}
        if other and other != wanted:
            change = compare_versions(name, other, wanted, client=client)
            graphs[other] = read_graph(name, other, client=client)
    except AgentError as error:
        problem = str(error)
    return page(
        request,
        person,
        "version.html",
        title=f"{name} {wanted}",
        name=name,
        version=found,
        slots=slots,
        to=to,
        incumbent=incumbent,
        report=plugin.gate_report(name, wanted, to=to, client=client),
        compared=compare_evidence(name, wanted, to=to, client=client),
        cases=cases,
        case_plots=distribution_plots(cases, wanted, incumbent),
        interval_plot=interval_plot,
        outcome_bar=outcome_bar,
        outcome_kinds=outcome_kinds(),
        runs=evidence_runs(name, wanted, client=client),
        other=other,
        change=change,
        problem=problem,
        requests=list_requests(name=name, version=wanted, state=None, client=client),
        card=known.description or "",
        refused=_why_not_applied(known.tags, to),
        graphs={number: plain_graph(drawn) for number, drawn in graphs.items() if drawn},
        may_change=may_change_model(person, name),
        may_try=trials_allowed(),
        drawn=True,
    )


def _why_not_applied(tags: dict[str, str], to: str) -> str:
    """Return why the last approval did not move the slot, empty if that was not to be expected."""
    said = tags.get(Slot.parse(to).tag_key(APPLIED_TAG), "")
    return "" if said.startswith(f"{APPLIED}:") else said.partition(": ")[2]


_TOOLS = re.compile(r"<hr/><small><em>__tools = (.*?)</em></small>")
_LOOKS = re.compile(r"^\s*classDef .*\n?|:::\w+", re.MULTILINE)


def plain_graph(drawn: str) -> str:
    """Return LangGraph's mermaid text without its own colours and markup, which a page refuses."""

    def listed(found: re.Match[str]) -> str:
        names = found[1].split(", ")
        rows = (", ".join(names[at : at + 3]) for at in range(0, len(names), 3))
        return "<br/>" + "<br/>".join(rows)

    return _LOOKS.sub("", re.sub(r"</?p>", "", _TOOLS.sub(listed, drawn)))


def readable(request: Request, person: Person) -> str:
    """Return the model the path names, if this person may know of it.

    Raises:
        HTTPException: 404 otherwise, whether there is one or not.
    """
    name = str(request.path_params["name"])
    if not may_read_model(person, name):
        raise HTTPException(404, f"There is no agent {name}.")
    return name


def _first(slots: dict[str, int | None]) -> str:
    return next((slot for slot in slots if slot == "Production"), next(iter(slots), ""))


ROUTES = [
    show("/", agents),
    show("/models/{name}", model),
    show("/models/{name}/versions/{version}", version),
]
