"""What the pack says about each tool, before it is spelled in Cedar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Effect, Risk
from mlflow_agent_plugin.trust.policy.schema import tool_facts

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.contract import ToolContract

NAMED_BY_STRANGERS = "named-by-strangers"
NAMED_BY_NOBODY = "named-by-nobody"
WORDS_OF_STRANGERS = "words-of-strangers"
HIGH_RISK = "high-risk"
NOBODY_ANSWERS = "nobody-answers"
_ALWAYS_ASKED = (Risk.HIGH, Risk.CRITICAL)
_DEEPEST = 8
"""How far references are followed; a schema that goes deeper lists nothing."""


@dataclass(frozen=True)
class ToolRules:
    """What the pack says about one tool.

    Attributes:
        contract: The tool's contract.
        permit: Id of the permit that covers it.
        stem: What the ids of its other policies begin with.
        targets: Arguments that direct the effect.
        contents: The other arguments, if they matter: those of a write that can pass on a text of
            anybody's. One whose schema lists its values cannot, and a write that can be undone and
            that nothing directs, by its contract's own word, does not get to anybody.
        required: Arguments that are in every call.
    """

    contract: ToolContract
    permit: str
    stem: str
    targets: tuple[str, ...]
    contents: tuple[str, ...]
    required: frozenset[str]

    @property
    def writes(self) -> bool:
        """Whether a call changes anything."""
        return self.contract.effect is not Effect.READ

    @property
    def always_asked(self) -> bool:
        """Rule (d)."""
        return self.writes and self.contract.risk in _ALWAYS_ASKED

    @property
    def guarded(self) -> bool:
        """Rule (e)."""
        return self.contract.effect is Effect.IRREVERSIBLE and bool(self.targets)

    def policy(self, ending: str) -> str:
        """Return the id of one of its policies."""
        return f"{self.stem}-{ending}"


def rules_of(contracts: Mapping[str, ToolContract]) -> list[ToolRules]:
    """Return what the pack says about each tool, in the order of `contracts`."""
    permits: dict[tuple[str, tuple[str, ...]], str] = {}
    taken: set[str] = set()
    found = []
    for name, contract in contracts.items():
        group = (contract.effect.value, tuple(sorted(contract.scopes)))
        if group not in permits:
            permits[group] = _fresh("-".join(["may", group[0], *group[1]]), taken)
        targets = contract.sinks()
        properties = contract.input.get("properties", {})
        found.append(
            ToolRules(
                contract,
                permits[group],
                _fresh(name, taken),
                targets,
                tuple(
                    key
                    for key, schema in properties.items()
                    if _passes_on(contract)
                    and key not in targets
                    and not _is_closed(schema, contract.input)
                ),
                _required(contract),
            )
        )
    return found


def _passes_on(contract: ToolContract) -> bool:
    """Tell whether what a call says gets to anybody, or cannot be taken back."""
    if contract.effect is Effect.WRITE:
        return contract.sink_arguments != []
    return contract.effect is Effect.IRREVERSIBLE


def _is_closed(schema: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Tell whether a schema allows only values that it lists itself."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return False
    if "enum" in schema or "const" in schema or schema.get("type") in ("boolean", "null"):
        return True
    inside = [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    if inside:
        return all(_is_closed(part, root, depth + 1) for parts in inside for part in parts)
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    parts = [root.get("$defs", {}).get(name), *schema.get("allOf", [])]
    return any(_is_closed(part, root, depth + 1) for part in parts)


def _required(contract: ToolContract) -> frozenset[str]:
    context = tool_facts(contract).action["appliesTo"]["context"]["attributes"]
    origins = context["provenance"]["attributes"]
    return frozenset(name for name, kind in origins.items() if kind["required"])


def _fresh(text: str, taken: set[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    stem = stem if stem[:1].isalpha() else f"t{stem}"
    stem = found = stem[:90]
    count = 1
    while found in taken:
        count += 1
        found = f"{stem}-{count}"
    taken.add(found)
    return found
