"""Reads a playbook and checks that its parts, and the bundle around it, fit together.

Rules:
- Slots are declared, results come from an earlier step of the same plan, kinds of errors all have a
  rule, a rule that escalates finds an escalation, shortcuts lead to intents that have a plan.
- Tools are tools the agent may call; prompts exist and use only `PROMPT_VARIABLES`.
- The first problem is one `PlannerError` with file, line and field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation.planner.expressions import (
    SESSION_FACTS,
    Reference,
    template_references,
)
from mlflow_agent_plugin.foundation.planner.playbook import (
    ERROR_KINDS,
    PLAYBOOK_FILE,
    PROMPT_VARIABLES,
    ErrorKind,
    ErrorRule,
    Plan,
    Playbook,
)
from mlflow_agent_plugin.package.reading import parse_yaml, validate_document

Place = tuple[str | int, ...]
Problem = tuple[Place, str]


def load_playbook(
    text: str,
    *,
    tools: Collection[str] | None = None,
    prompts: Mapping[str, Collection[str]] | None = None,
    where: str = PLAYBOOK_FILE,
) -> Playbook:
    """Read a playbook from its YAML text.

    Args:
        text: The YAML document.
        tools: Names of the tools the agent may call; None: not checked.
        prompts: Prompt name to the variables it uses; None: not checked.
        where: File to name in errors.

    Raises:
        PlannerError: The text breaks a rule of this module or of the format.
    """
    document = parse_yaml(text, name=where, error=PlannerError)
    playbook = validate_document(document, Playbook, error=PlannerError)
    problems = list(_problems(playbook))
    if tools is not None:
        problems += _tool_problems(playbook, tools)
    if prompts is not None:
        problems += _prompt_problems(playbook, prompts)
    for place, problem in problems:
        raise PlannerError(
            problem, where=document.where(*place), hint="See docs/reference/playbook.md."
        )
    return playbook


def _problems(playbook: Playbook) -> Iterator[Problem]:
    for place, plan in playbook.plans():
        yield from _plan_problems(place, plan, playbook)
    if playbook.escalation is not None:
        yield from _template_problems(
            ("escalation", "arguments"), playbook.escalation.arguments, playbook, None
        )
    missing = [kind for kind in ERROR_KINDS if kind not in playbook.on_error]
    if missing:
        yield ("on_error",), f"there is no rule for {', '.join(missing)}"
    for index, shortcut in enumerate(playbook.shortcuts):
        if shortcut.intent not in playbook.intents:
            yield (
                ("shortcuts", index, "intent"),
                f"there is no plan for {shortcut.intent!r} under intents",
            )
    for at, rules in _error_rules(playbook):
        for kind, rule in rules.items():
            if rule.escalate and playbook.escalation is None:
                yield (*at, kind), "escalates, but the playbook has no escalation"


def _error_rules(playbook: Playbook) -> Iterator[tuple[Place, Mapping[ErrorKind, ErrorRule]]]:
    yield ("on_error",), playbook.on_error
    for place, plan in playbook.plans():
        yield (*place, "on_error"), plan.on_error


def _plan_problems(place: Place, plan: Plan, playbook: Playbook) -> Iterator[Problem]:
    yield from _need_problems((*place, "needs"), plan.needs, playbook)
    before: set[str] = set()
    for index, step in enumerate(plan.steps):
        at = (*place, "steps", index)
        yield from _need_problems((*at, "needs"), step.needs, playbook)
        yield from _template_problems((*at, "arguments"), step.arguments, playbook, before)
        for condition in step.conditions():
            yield from _reference_problems((*at, "when"), condition.reference, playbook, before)
        before.add(step.result_name)
    for index, answer in enumerate(plan.answers()):
        at = (*place, "answer", index, "when")
        for condition in answer.conditions():
            yield from _reference_problems(at, condition.reference, playbook, before)


def _need_problems(place: Place, needs: list[str], playbook: Playbook) -> Iterator[Problem]:
    for index, name in enumerate(needs):
        if name not in playbook.slots:
            yield (*place, index), f"no slot {name!r} is declared under slots"


def _template_problems(
    place: Place, value: Any, playbook: Playbook, results: set[str] | None
) -> Iterator[Problem]:
    if isinstance(value, str):
        try:
            references = template_references(value)
        except ValueError as error:
            yield place, str(error)
            return
        for reference in references:
            yield from _reference_problems(place, reference, playbook, results)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _template_problems((*place, name), item, playbook, results)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _template_problems((*place, index), item, playbook, results)


def _reference_problems(
    place: Place, reference: Reference, playbook: Playbook, results: set[str] | None
) -> Iterator[Problem]:
    root, name = reference.parts[:2]
    if root == "slots" and name not in playbook.slots:
        yield place, f"no slot {name!r} is declared under slots"
    if root == "session" and (len(reference.parts) > 2 or name not in SESSION_FACTS):
        yield place, f"there is no {reference.text}; session has {', '.join(SESSION_FACTS)}"
    if root == "results" and results is None:
        yield place, "results cannot be used here; use slots and session"
    elif root == "results" and results is not None and name not in results:
        yield place, f"no earlier step of this plan has the result {name!r}"


def _tool_problems(playbook: Playbook, tools: Collection[str]) -> Iterator[Problem]:
    named: list[tuple[Place, str]] = [
        ((*place, "steps", index, "tool"), step.tool)
        for place, plan in playbook.plans()
        for index, step in enumerate(plan.steps)
    ]
    if playbook.escalation is not None:
        named.append((("escalation", "tool"), playbook.escalation.tool))
    known = ", ".join(sorted(tools)) or "no tools"
    for place, tool in named:
        if tool not in tools:
            yield place, f"the agent may not call a tool {tool!r}; it has {known}"


def _prompt_problems(
    playbook: Playbook, prompts: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    for place, prompt in _named_prompts(playbook):
        if prompt not in prompts:
            yield place, f"agent.yaml lists no prompt {prompt!r}"
            continue
        unknown = sorted(set(prompts[prompt]) - set(PROMPT_VARIABLES))
        if unknown:
            provided = ", ".join(PROMPT_VARIABLES)
            uses = ", ".join(unknown)
            yield place, f"prompt {prompt!r} uses {uses}; the planner provides {provided}"


def _named_prompts(playbook: Playbook) -> Iterator[tuple[Place, str]]:
    for name, slot in playbook.slots.items():
        yield ("slots", name, "ask"), slot.ask
    for place, plan in playbook.plans():
        for index, answer in enumerate(plan.answers()):
            field: Place = ("refuse",) if plan.refuse else ("answer", index, "prompt")
            yield (*place, *field), answer.prompt
    for at, rules in _error_rules(playbook):
        for kind, rule in rules.items():
            if rule.answer is not None:
                yield (*at, kind, "answer"), rule.answer
    yield ("low_confidence", "answer"), playbook.low_confidence.answer
    if playbook.escalation is not None:
        yield ("escalation", "answer"), playbook.escalation.answer
        yield ("escalation", "failed"), playbook.escalation.failed
