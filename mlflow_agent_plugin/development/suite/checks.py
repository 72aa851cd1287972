"""A suite against an agent: does it name only what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.suite.format import Suite
from mlflow_agent_plugin.errors import SuiteError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle, ToolContract


def check_suite(suite: Suite, bundle: Bundle) -> None:
    """Check that the suite names only what the agent has; runs no code of the bundle.

    Raises:
        SuiteError: It is for another agent, or names an unknown tool or argument.
    """
    if suite.agent is not None and suite.agent != bundle.manifest.name:
        raise SuiteError(
            f"the suite is for agent {suite.agent!r}, not {bundle.manifest.name!r}",
            where=str(suite.source or suite.name),
            hint="Evaluate the agent it names, or change `agent`.",
        )
    usable = {name: bundle.contracts[name] for name in bundle.manifest.usable_tools()}
    for scenario in suite.scenarios:
        for location, tool, arguments in _tools_named_in(scenario):
            _check_tool(suite, scenario, location, tool, arguments, usable)
        for index, answer in enumerate(scenario.simulated):
            problem = _output_problem(usable[answer.tool], answer.output)
            if problem is not None:
                raise SuiteError(
                    f"does not fit the tool's output contract: {problem}",
                    where=suite.where(scenario.id, "simulated", index, "output"),
                    hint="Correct the recorded answer, or the contract.",
                )


def _tools_named_in(
    scenario: Scenario,
) -> list[tuple[tuple[str | int, ...], str, Mapping[str, Any]]]:
    named: list[tuple[tuple[str | int, ...], str, Mapping[str, Any]]] = []
    for index, call in enumerate(scenario.expect.calls_required):
        named.append((("expect", "calls_required", index), call.tool, call.arguments))
    for index, forbidden in enumerate(scenario.expect.calls_forbidden):
        if forbidden.tool is not None:
            location = ("expect", "calls_forbidden", index)
            named.append((location, forbidden.tool, forbidden.arguments))
    if isinstance(scenario.expect.other_writes, list):
        for index, tool in enumerate(scenario.expect.other_writes):
            named.append((("expect", "other_writes", index), tool, {}))
    for index, answer in enumerate(scenario.simulated):
        named.append((("simulated", index), answer.tool, answer.arguments))
    for index, fault in enumerate(scenario.faults):
        named.append((("faults", index), fault.tool, {}))
    for index, rule in enumerate(scenario.approvals):
        if rule.tool is not None:
            named.append((("approvals", index), rule.tool, {}))
    return named


def _check_tool(
    suite: Suite,
    scenario: Scenario,
    location: tuple[str | int, ...],
    tool: str,
    arguments: Mapping[str, Any],
    usable: Mapping[str, ToolContract],
) -> None:
    if tool not in usable:
        raise SuiteError(
            f"the agent has no tool {tool!r}",
            where=suite.where(scenario.id, *location, "tool"),
            hint=_suggest(tool, list(usable)),
        )
    properties = usable[tool].input.get("properties", {})
    for name in arguments:
        if name not in properties:
            raise SuiteError(
                f"{tool!r} has no argument {name!r}",
                where=suite.where(scenario.id, *location, "arguments", name),
                hint=_suggest(name, list(properties)),
            )


def _suggest(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known) or 'none'}."


def _output_problem(contract: ToolContract, output: Mapping[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(contract.output).iter_errors(dict(output)))
    return None if error is None else error.message[:300]
