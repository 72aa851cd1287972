"""The pack's policy tests, written from its rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mlflow_agent_plugin.entities import DecisionValue, Provenance
from mlflow_agent_plugin.trust.policy.scaffold.arguments import example_arguments
from mlflow_agent_plugin.trust.policy.scaffold.rules import (
    HIGH_RISK,
    NAMED_BY_NOBODY,
    NAMED_BY_STRANGERS,
    NOBODY_ANSWERS,
    WORDS_OF_STRANGERS,
    ToolRules,
)

_USER, _TRUSTED, _THEIRS, _MODEL = (
    Provenance.USER,
    Provenance.TRUSTED,
    Provenance.UNTRUSTED,
    Provenance.MODEL,
)


@dataclass(frozen=True)
class Situation:
    """Where a call's arguments came from and what else is known.

    Attributes:
        name: What the policy test is called.
        targets: Provenance of every target.
        contents: Provenance of every other argument.
        untrusted_seen: Whether third parties' text was read.
        verified: Whether the user is known.
    """

    name: str
    targets: Provenance
    contents: Provenance
    untrusted_seen: bool = True
    verified: bool = True


SITUATIONS = (
    Situation("with what the user said", _USER, _USER, untrusted_seen=False),
    Situation("with trusted values, after third parties' text", _TRUSTED, _TRUSTED),
    Situation("on a target only third parties' text names", _THEIRS, _USER),
    Situation("the same for somebody unknown", _THEIRS, _USER, verified=False),
    Situation("on a target nobody names, after third parties' text", _MODEL, _USER),
    Situation("on a target nobody names, before", _MODEL, _USER, untrusted_seen=False),
    Situation("with third parties' words, on the user's target", _USER, _THEIRS),
    Situation("with third parties' words, on another trusted target", _TRUSTED, _THEIRS),
)


def pack_tests(rules: Sequence[ToolRules], role: str) -> str:
    """Return ``tests.yaml`` for the pack.

    Raises:
        PolicyError: No arguments can be made up for a tool.
    """
    cases = [case for rule in rules for case in _cases(rule, role)]
    text: str = yaml.safe_dump(
        {"apiVersion": "mlflow-agents/v1", "cases": cases},
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )
    return f"# Written from the tool contracts with the policies beside it.\n{text}"


def expected(
    rule: ToolRules, situation: Situation, arguments: Mapping[str, Any]
) -> tuple[DecisionValue, list[str]]:
    """Return the decision the rules ask for, and the ids of the policies that make it."""
    targets = [name for name in rule.targets if name in arguments]
    contents = [name for name in rule.contents if name in arguments]
    asked, denied = [], []
    if rule.always_asked:
        asked.append(HIGH_RISK)
    if targets and situation.targets is _THEIRS:
        asked.append(NAMED_BY_STRANGERS)
        if rule.guarded and not situation.verified:
            denied.append(NOBODY_ANSWERS)
    if targets and situation.targets is _MODEL and situation.untrusted_seen:
        asked.append(NAMED_BY_NOBODY)
    users = bool(targets) and situation.targets is _USER
    if contents and situation.contents is _THEIRS and not users:
        asked.append(WORDS_OF_STRANGERS)
    ids = sorted(rule.policy(ending) for ending in (*asked, *denied))
    if denied:
        return DecisionValue.DENY, ids
    if asked:
        return DecisionValue.NEEDS_APPROVAL, ids
    return DecisionValue.ALLOW, [rule.permit]


def _cases(rule: ToolRules, role: str) -> Iterator[dict[str, Any]]:
    arguments = example_arguments(rule.contract)
    told: set[tuple[Any, ...]] = set()
    for situation in SITUATIONS:
        origins = {
            name: (situation.targets if name in rule.targets else situation.contents).value
            for name in arguments
        }
        decision, policies = expected(rule, situation, arguments)
        if (decision, *policies) in told and decision is not DecisionValue.ALLOW:
            continue
        if told and not rule.writes and not rule.targets:
            break  # a read without targets runs whatever is known
        told.add((decision, *policies))
        case: dict[str, Any] = {
            "name": f"{rule.contract.name} {situation.name}",
            "tool": rule.contract.name,
            "arguments": copy.deepcopy(arguments),  # the same object twice becomes a YAML alias
            "session": {"untrusted_seen": situation.untrusted_seen},
            "provenance": origins,
            "expect": decision.value,
            "policies": list(policies),
        }
        if not situation.verified:
            case["actor"] = {"verified": False}
        if decision is DecisionValue.NEEDS_APPROVAL:
            case["role"] = role
        yield {key: value for key, value in case.items() if value != {}}
