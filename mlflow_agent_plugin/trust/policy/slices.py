"""The part of a policy set that can apply to one tool, made ready to be asked often.

Rules:
- A slice holds every policy whose scope covers the tool; what is left out could never match.
- Parsing the context is most of what a decision costs, so a slice passes on only the facts its
  policies read. All facts are checked before that; a missing one is an error, read or not.
- The smaller schema is proven, not trusted: the slice's policies are validated against it, and the
  full schema is used when they do not pass.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import json_encoder
from mlflow_agent_plugin.trust.policy.conditions import raw_path
from mlflow_agent_plugin.trust.policy.schema import NAMESPACE, ToolFacts
from mlflow_agent_plugin.trust.policy.sources import Policy

if TYPE_CHECKING:
    import cedarpy

GROUPS = ("input", "session", "provenance")
_spell_context = json_encoder()

Used = Mapping[str, frozenset[str] | None]
"""Group of ``context`` to the attributes that are read, None for all of them."""


@dataclass(frozen=True)
class PolicySlice:
    """The policies of one tool.

    Attributes:
        facts: How the tool's arguments become facts.
        policy_ids: Ids of the policies, sorted.
        policy_set: The policies, parsed.
        schema: The schema requests are checked against.
        used: The facts that are passed on.
    """

    facts: ToolFacts
    policy_ids: tuple[str, ...]
    policy_set: cedarpy.PolicySet
    schema: cedarpy.Schema
    used: Used

    def context(self, facts: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the JSON context for `facts`, which are checked already."""
        shown: dict[str, Mapping[str, Any]] = {}
        for group, values in facts.items():
            names = self.used[group]
            shown[group] = (
                values
                if names is None
                else {name: values[name] for name in names if name in values}
            )
        return _spell_context(shown)


def make_slice(
    facts: ToolFacts, policies: Mapping[str, Policy], schema: Mapping[str, Any]
) -> PolicySlice:
    """Cut the slice of one tool.

    Args:
        facts: The tool.
        policies: All policies of the agent, by id; they validate against `schema`.
        schema: The agent's Cedar schema in JSON form.

    Raises:
        ValueError: Cedar does not load the policies.
    """
    import cedarpy  # noqa: PLC0415 - import cost

    chosen = {
        name: policy for name, policy in policies.items() if policy.covers(facts.tool, facts.groups)
    }
    used: Used = used_facts([policy.ast["conditions"] for policy in chosen.values()])
    handle = cedarpy.Schema.from_json_str(json.dumps(_smaller(schema, facts.tool, used)))
    text = "\n".join(policy.text for policy in chosen.values())
    if not cedarpy.validate_policies(text, handle).validation_passed:
        used = dict.fromkeys(GROUPS)
        handle = cedarpy.Schema.from_json_str(json.dumps(schema))
    return PolicySlice(
        facts,
        tuple(sorted(chosen)),
        policy_set_of(chosen),
        handle,
        used,
    )


def policy_set_of(policies: Mapping[str, Policy]) -> cedarpy.PolicySet:
    """Return a handle on `policies`, in which each is known by its id.

    Raises:
        ValueError: Cedar does not load them.
    """
    import cedarpy  # noqa: PLC0415 - import cost

    document = {
        "staticPolicies": {name: policy.ast for name, policy in policies.items()},
        "templates": {},
        "templateLinks": [],
    }
    return cedarpy.PolicySet.from_json_str(json.dumps(document))


def used_facts(expressions: Sequence[Any]) -> dict[str, frozenset[str] | None]:
    """Return which attributes of ``context`` the expressions read."""
    read: dict[str, set[str]] = {group: set() for group in GROUPS}
    whole: set[str] = set()
    stack: list[Any] = list(expressions)
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
            continue
        if not isinstance(node, Mapping):
            continue
        path = raw_path(node)
        if path is None and len(node) == 1 and "has" in node:
            base = raw_path(node["has"]["left"])
            path = None if base is None else (*base, node["has"]["attr"])
        if path is None:
            stack.extend(node.values())
        elif path[0] != "context":
            continue
        elif len(path) == 1:
            whole.update(GROUPS)
        elif path[1] not in read or len(path) == 2:
            whole.add(path[1])
        else:
            read[path[1]].add(path[2])
    return {group: None if group in whole else frozenset(names) for group, names in read.items()}


def _smaller(schema: Mapping[str, Any], tool: str, used: Used) -> dict[str, Any]:
    """Return `schema` with the facts in `used` only, in which no request but `tool`'s is valid."""
    whole = schema[NAMESPACE]
    # other tools stay known by name, since a scope may list them, but apply to nothing
    actions = {
        name: {key: value for key, value in action.items() if key == "memberOf"}
        for name, action in whole["actions"].items()
    }
    actions[tool] = copy.deepcopy(whole["actions"][tool])
    groups = actions[tool]["appliesTo"]["context"]["attributes"]
    for group, names in used.items():
        attributes = groups[group]["attributes"]
        if names is not None:
            groups[group]["attributes"] = {
                name: kind for name, kind in attributes.items() if name in names
            }
    return {NAMESPACE: {**whole, "actions": actions}}
