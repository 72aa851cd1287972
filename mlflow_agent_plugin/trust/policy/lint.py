"""Everything that can be said about policies before the first request.

Rules:
- Cedar's own validator runs with the schema generated from the contracts, policy by policy, so
  that each finding has a file, a line and an id.
- What the validator lets pass is linted here: missing or duplicate ``@id``, unknown annotations and
  roles, a quorum that is none, an ``@unverified`` that says nothing, a permit outside
  ``permit.cedar``, ``@approval`` or ``approved`` outside ``approval.cedar``, and conditions that
  are always true or never true.
- An approval rule is a forbid with ``@approval("<role>")`` and a clause that is exactly
  ``unless { context.session.approved }``. So an approval removes that rule and changes nothing
  else. ``@quorum("<n>")`` beside it asks for n different people of that role, two at least.
- Problems stop the agent from being logged. Warnings do not: they are in the result.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.trust.policy.conditions import (
    Domain,
    Path,
    attribute_path,
    can_hold,
    walk,
)
from mlflow_agent_plugin.trust.policy.schema import (
    ACTION_TYPE,
    PROVENANCES,
    ROLE_TYPE,
    Shape,
    ToolFacts,
)
from mlflow_agent_plugin.trust.policy.sources import (
    APPROVAL_FILE,
    HARD_FILE,
    PERMIT_FILE,
    ROLES_FILE,
    Policy,
    PolicySources,
)

ANNOTATIONS = ("id", "approval", "quorum", "reason", "unverified")
_APPROVED: Path = ("context", "session", "approved")
_ID = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,127}$")


@dataclass(frozen=True)
class Problem:
    """One reason not to log the agent.

    Attributes:
        where: File, and line where known.
        text: What is wrong; starts with the policy's id where there is one.
        hint: What to do.
    """

    where: str
    text: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one `PolicyError` for all of `problems`, or return if there are none.

    Raises:
        PolicyError: `problems` is not empty.
    """
    if not problems:
        return
    first, *rest = problems
    text = first.text
    if rest:
        shown = "; ".join(str(problem) for problem in rest[:20])
        text = f"{text} (and {len(rest)} more: {shown})"
    raise PolicyError(text, where=first.where, hint=first.hint)


def lint(
    sources: PolicySources,
    policies: Sequence[Policy],
    facts: Mapping[str, ToolFacts],
    schema: Mapping[str, Any],
) -> list[str]:
    """Check `policies` against `schema` and the linter's rules.

    Returns:
        Warnings.

    Raises:
        PolicyError: A policy breaks a rule.
    """
    refuse([*_set_problems(sources, policies), *_policy_problems(sources, policies, facts, schema)])
    return list(_warnings(sources, policies, facts))


def _set_problems(sources: PolicySources, policies: Sequence[Policy]) -> Iterator[Problem]:
    if not policies and sources.usable_tools:
        yield Problem(
            sources.where(PERMIT_FILE),
            "has no policy, so no tool of this agent could ever run",
            "Write at least one `permit` policy: see docs/how-to/write-a-policy.md.",
        )
    first: dict[str, Policy] = {}
    for policy in policies:
        name = policy.policy_id
        if name and name in first:
            other = sources.where(first[name].file, first[name].line)
            yield Problem(
                sources.where(policy.file, policy.line),
                f"policy id {name!r} is used already at {other}",
                "Give every policy an @id of its own.",
            )
        first.setdefault(name, policy)


def _policy_problems(
    sources: PolicySources,
    policies: Sequence[Policy],
    facts: Mapping[str, ToolFacts],
    schema: Mapping[str, Any],
) -> Iterator[Problem]:
    import cedarpy  # noqa: PLC0415 - import cost

    handle = cedarpy.Schema.from_json_str(json.dumps(schema))
    for policy in policies:
        where = sources.where(policy.file, policy.line)
        name = f"policy {policy.policy_id!r}" if policy.policy_id else "a policy without id"
        named = [
            *_annotation_problems(policy, sources),
            *_file_problems(policy),
            *_name_problems(policy, sources, facts),
        ]
        # the validator says the same of unknown names, less readably
        if not named:
            result = cedarpy.validate_policies(policy.text, handle)
            named = [_validator_problem(error.error, facts) for error in result.errors]
            if not result.validation_passed and not named:
                named = [("does not validate against the schema of its tools", None)]
        if not named:
            named = list(_condition_problems(policy, facts))
        for text, hint in named:
            yield Problem(where, f"{name} {text}", hint)


_Finding = tuple[str, str | None]


def _annotation_problems(policy: Policy, sources: PolicySources) -> Iterator[_Finding]:
    if not policy.policy_id:
        yield "has no @id", 'Put @id("a-unique-name") before it: decisions and audit name it.'
    elif not _ID.match(policy.policy_id):
        yield (
            "has an @id that is no name",
            "Use letters, digits, hyphens and underscores, beginning with a letter.",
        )
    for name in sorted(set(policy.annotations) - set(ANNOTATIONS)):
        yield (
            f"has the unknown annotation @{name}",
            _suggest(name, ANNOTATIONS) or f"Known are @{', @'.join(ANNOTATIONS)}.",
        )
    if policy.effect == "forbid" and "unverified" in policy.annotations:
        yield "is a forbid with @unverified", "Leave it out: a forbid holds for everybody."
    elif policy.annotations.get("unverified", "allow") != "allow":
        yield (
            'has an @unverified that is not "allow"',
            'Write @unverified("allow") or leave it out.',
        )
    role = policy.approver_role
    if role is not None and role not in sources.roles:
        yield _unknown_role(role, sources)
    if "quorum" not in policy.annotations:
        return
    if role is None:
        yield "has @quorum without @approval", 'Add @approval("<role>"): who are these people?'
    try:
        quorum = policy.quorum
    except ValueError as error:
        yield f"has a quorum that is none: {error}", 'Write it as in @quorum("2").'
        return
    if quorum == 1:
        yield "asks for a quorum of one", "Leave @quorum out: one is what @approval means."


def _file_problems(policy: Policy) -> Iterator[_Finding]:
    is_approval = policy.approver_role is not None
    if policy.effect == "permit" and policy.file != PERMIT_FILE:
        yield "is a permit", f"Move it to {PERMIT_FILE}."
    if policy.effect == "forbid" and policy.file == PERMIT_FILE:
        yield "is a forbid", f"Move it to {APPROVAL_FILE if is_approval else HARD_FILE}."
    if policy.file == APPROVAL_FILE and not is_approval:
        yield (
            "is in the approval file without @approval",
            f'Add @approval("<role>"), or move it to {HARD_FILE}.',
        )
    if policy.file != APPROVAL_FILE and is_approval:
        yield f"has @approval outside {APPROVAL_FILE}", f"Move it to {APPROVAL_FILE}."
    clauses = [clause for clause in policy.ast["conditions"] if not _is_approved_clause(clause)]
    mentions = any(attribute_path(node) == _APPROVED for node in walk(clauses))
    has_clause = len(clauses) < len(policy.ast["conditions"])
    if policy.file != APPROVAL_FILE and (mentions or has_clause):
        yield (
            "uses context.session.approved",
            f"Only the rules in {APPROVAL_FILE} may depend on an approval.",
        )
    elif policy.file == APPROVAL_FILE and mentions:
        yield (
            "uses context.session.approved in a condition of its own",
            "Use it once, in a clause that is exactly `unless { context.session.approved }`.",
        )
    elif policy.file == APPROVAL_FILE and not has_clause:
        yield (
            "would forbid approved calls too",
            "End it with `unless { context.session.approved }`.",
        )


def _is_approved_clause(clause: Mapping[str, Any]) -> bool:
    return clause["kind"] == "unless" and attribute_path(clause["body"]) == _APPROVED


def _name_problems(
    policy: Policy, sources: PolicySources, facts: Mapping[str, ToolFacts]
) -> Iterator[_Finding]:
    groups = {group for tool in facts.values() for group in tool.groups}
    told: set[tuple[str, str]] = set()
    for node in walk(policy.ast):
        if not isinstance(node, Mapping) or not {"type", "id"} <= set(node):
            continue
        kind, name = node["type"], node["id"]
        if not isinstance(kind, str) or not isinstance(name, str) or (kind, name) in told:
            continue
        told.add((kind, name))
        if kind == ROLE_TYPE and name not in sources.roles:
            yield _unknown_role(name, sources)
        if kind == ACTION_TYPE and name not in facts and name not in groups:
            if name.startswith("effect:"):
                yield (
                    f"names {name!r}, and no tool of this agent has that effect",
                    f"Tools have {', '.join(sorted(groups)) or 'no effects: there are none'}.",
                )
                continue
            yield (
                f"names the unknown tool {name!r}",
                _suggest(name, facts) or f"Known are {', '.join(sorted(facts)) or 'none'}.",
            )


def _unknown_role(role: str, sources: PolicySources) -> _Finding:
    return (
        f"names the unknown role {role!r}",
        _suggest(role, sources.roles) or f"Declare it in {sources.where(ROLES_FILE)}.",
    )


def _validator_problem(error: str, facts: Mapping[str, ToolFacts]) -> _Finding:
    text = re.sub(r"^for policy `policy0`[,:] ", "", error)
    missing = re.search(
        r"attribute `(?:input|provenance)\.([^`.]+)`? in context for .*not found", text
    )
    if missing:
        known = {name for tool in facts.values() for name in tool.origins}
        return f"does not validate: {text}", _suggest(missing[1], known)
    hint = None
    if "optional attribute" in text:
        hint = "Test `context.input has …` before it: the argument may be absent."
    elif "types Long and decimal" in text or "types decimal and Long" in text:
        hint = 'Compare numbers with decimal: `context.input.x.lessThan(decimal("5.0"))`.'
    return f"does not validate: {text}", hint


def _condition_problems(policy: Policy, facts: Mapping[str, ToolFacts]) -> Iterator[_Finding]:
    tools = [tool for tool in facts.values() if policy.covers(tool.tool, tool.groups)]
    clauses = [clause for clause in policy.ast["conditions"] if not _is_approved_clause(clause)]

    def holds(wanted: list[tuple[Mapping[str, Any], bool]]) -> bool:
        return any(can_hold(wanted, partial(_domain, tool)) for tool in tools)

    found = False
    for clause in clauses:
        if not holds([(clause["body"], True)]):
            found = True
            yield f"has `{clause['kind']}` with a condition that is never true", "Fix or remove it."
        elif not holds([(clause["body"], False)]):
            found = True
            yield (
                f"has `{clause['kind']}` with a condition that is always true",
                "Fix or remove it.",
            )
    if not found and clauses and not holds([(c["body"], c["kind"] == "when") for c in clauses]):
        yield "never applies: its conditions exclude each other", "Fix or remove it."


def _domain(tool: ToolFacts, path: Path) -> Domain:
    """Return what the contract says about an attribute of ``context``."""
    if path[:2] == ("context", "provenance"):
        return Domain(values=PROVENANCES)
    if path in {("context", "session", name) for name in ("calls", "turn", "now")}:
        return Domain(low=Decimal(0))
    if path[:2] != ("context", "input"):
        return Domain()
    shape: Shape | None = tool.input
    for name in path[2:]:
        shape = shape.attributes.get(name) if shape else None
    if shape is None or shape is tool.input:
        return Domain()
    schema = shape.schema
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    low, high = (_limit(schema.get(key)) for key in ("minimum", "maximum"))
    if listed is None:
        return Domain(low=low, high=high)
    kind = shape.cedar["type"]
    values = {value for value in listed if value is not None}
    if kind == "Extension":
        return Domain(values=frozenset(Decimal(str(value)) for value in values))
    return Domain(values=frozenset(values))


def _limit(value: Any) -> Decimal | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Decimal(str(value)) if is_number else None


def _warnings(
    sources: PolicySources, policies: Sequence[Policy], facts: Mapping[str, ToolFacts]
) -> Iterator[str]:
    for name in sources.usable_tools:
        permits = [
            p for p in policies if p.effect == "permit" and p.covers(name, facts[name].groups)
        ]
        if not permits:
            yield f"{sources.where(PERMIT_FILE)}: tool {name!r} has no permit, so it can never run"
    for name, tool in sorted(facts.items()):
        for argument in tool.unseen:
            yield (
                f"{sources.folder}: policies cannot see argument {argument!r} of tool {name!r}: "
                "its schema has no Cedar type"
            )


def _suggest(name: str, known: Any) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else None
