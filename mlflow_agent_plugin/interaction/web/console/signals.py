"""How agents do: traffic, speed, cost, tools, drift, and what changed around them.

Rules:
- Numbers come from the monitoring table (`numbers`) and from drift runs in MLflow; where there is
  none the page says how to get it, never 0.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.interaction.web.console.numbers import (
    DAYS,
    Numbers,
    numbers,
)
from mlflow_agent_plugin.interaction.web.console.plots import bars, lines
from mlflow_agent_plugin.interaction.web.console.rendering import page
from mlflow_agent_plugin.interaction.web.console.views import needs, number, show, text
from mlflow_agent_plugin.interaction.web.people import Person, may_read_model
from mlflow_agent_plugin.interaction.web.records import records

DRIFT_PAGE = 20
ENVIRONMENT_PAGE = 10
_WORDS = {"true": "drifted", "false": "none"}

SHOWN = (
    ("Traffic", ("requests", "sessions", "completion_rate", "clarification_rate")),
    ("People", ("escalation_rate", "approval_rate", "override_rate")),
    ("Safety", ("violation_rate", "denial_rate", "refusal_rate")),
    ("Failures", ("failure_rate", "tool_failure_rate")),
    ("Speed", ("latency_p50_seconds", "latency_p95_seconds", "latency_p99_seconds")),
    ("Cost", ("cost_usd_total", "cost_usd_mean", "input_tokens_mean", "output_tokens_mean")),
)

OF_A_TOOL = (
    ("Calls", "calls"),
    ("Denied", "denial_rate"),
    ("Rejected by a person", "override_rate"),
    ("Failed", "failure_rate"),
    ("Half within, s", "latency_p50_seconds"),
    ("95 of 100 within, s", "latency_p95_seconds"),
    ("Cost, USD", "cost_usd_total"),
)


def signals(request: Request, person: Person) -> Response:
    """Show the numbers of the last days, by agent and version, and drift."""
    needs(
        person.may_read_audit, "Signals are for reviewers, operations, auditors and administrators."
    )
    days, agent, found, problem = read_numbers(request, person)
    checks, more = _drift(request, person)
    return page(
        request,
        person,
        "signals.html",
        title="Signals",
        days=days,
        choices=DAYS,
        agent=agent,
        found=found,
        shown=SHOWN,
        plots=[] if found is None or not found.days else _plots(found),
        problem=problem,
        drift=checks,
        offset=number(request, "offset"),
        more=more,
        columns=_columns(checks),
        of_a_tool=OF_A_TOOL,
        environment=_environment(person),
    )


def read_numbers(request: Request, person: Person) -> tuple[int, str, Numbers | None, str]:
    """Return the days and agent a page is about, their numbers, and why there are none."""
    days = number(request, "days", 7)
    days = days if days in DAYS else 7
    agent = text(request, "agent")
    try:
        return days, agent, numbers(days=days, tenant=person.tenant, agent=agent), ""
    except DataError as error:
        return days, agent, Numbers(), str(error)


def _plots(found: Numbers) -> list[Any]:
    days = [day[5:] for day in found.days]
    return [
        bars("Requests a day", days, {"requests": found.series("requests")}),
        lines(
            "Answered or acted, of all requests",
            days,
            {"completed": found.series("completion_rate")},
            unit="rate",
        ),
        lines(
            "Seconds for an answer",
            days,
            {
                "half within": found.series("latency_p50_seconds"),
                "95 of 100 within": found.series("latency_p95_seconds"),
            },
            unit="s",
        ),
        bars("Cost a day", days, {"US dollars": found.series("cost_usd_total")}, unit="USD"),
        lines(
            "Tokens a request",
            days,
            {
                "into the model": found.series("input_tokens_mean"),
                "out of it": found.series("output_tokens_mean"),
            },
        ),
    ]


def _drift(request: Request, person: Person) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of drift checks, the newest first, and whether there are further ones."""
    offset = number(request, "offset")
    wanted = text(request, "verdict")
    condition = f"tags.`agent.drift` = '{wanted}'" if wanted in _VERDICTS else None
    found = _checks("agent.drift", condition, limit=min(offset + DRIFT_PAGE + 1, 1000))[offset:]
    return _allowed(found[:DRIFT_PAGE], person), len(found) > DRIFT_PAGE


def _environment(person: Person) -> list[dict[str, Any]]:
    """Return the newest checks of tools and knowledge outside against what a version pins."""
    return _allowed(_checks("agent.environment", limit=ENVIRONMENT_PAGE), person)


def _checks(tag: str, condition: str | None = None, *, limit: int) -> list[dict[str, Any]]:
    """Return the newest runs that hold a verdict in `tag`."""
    client = records().client
    experiments = [item.experiment_id for item in client.search_experiments(max_results=1000)]
    return [
        {
            "run": run,
            "run_id": run.info.run_id,
            "experiment_id": run.info.experiment_id,
            "at": utc_from(run.info.start_time),
            "verdict": _WORDS.get(run.data.tags[tag], run.data.tags[tag]),
            "model": run.data.tags.get("agent.model", ""),
            "version": run.data.tags.get("agent.version", ""),
            "summary": run.data.tags.get("mlflow.note.content", ""),
        }
        for run in client.search_runs(
            experiments,
            condition or f"tags.`{tag}` != ''",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
    ]


def _allowed(checks: list[dict[str, Any]], person: Person) -> list[dict[str, Any]]:
    return [item for item in checks if not item["model"] or may_read_model(person, item["model"])]


_VERDICTS = ("true", "false", "suspected", "unknown")


def _columns(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the newest check measured, column by column, the largest shift first."""
    if not checks:
        return []
    measured = checks[0]["run"].data.metrics
    names = {key.split("/")[1] for key in measured if key.count("/") == 2}
    rows = [
        {
            "name": name,
            "effect": measured.get(f"drift/{name}/effect"),
            "adjusted_p": measured.get(f"drift/{name}/adjusted_p"),
        }
        for name in sorted(names)
    ]
    return sorted(rows, key=lambda row: -(row["effect"] or 0.0))


def utc_from(milliseconds: int) -> Any:
    """Return the time of an MLflow timestamp."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)


ROUTES: list[Route] = [show("/signals", signals)]
