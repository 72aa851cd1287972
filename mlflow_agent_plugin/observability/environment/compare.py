"""What was pinned against what is there now: rules, without any I/O.

Rules:
- A live tool keeps its contract when it accepts every call the contract allows, and returns only
  what the contract describes. The rules are those of a new contract version
  (`package.subschema`), plus one: a field the contract's output forbids
  (``additionalProperties: false``) is a change, because the gateway would refuse the answer.
- A tool its server no longer has is a change. A tool the server has and the agent has not is none
  of the agent's business.
- The knowledge base is what its files hold, by path in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_agent_plugin.observability.environment.verdict import (
    EnvironmentPart,
    PartKind,
    PartStatus,
)
from mlflow_agent_plugin.package import Bundle, ToolContract
from mlflow_agent_plugin.package.subschema import Side, broken_promises

_SHOWN = 8
_MAX_DEPTH = 40


@dataclass(frozen=True)
class LiveTool:
    """A tool as its server describes it now.

    Attributes:
        input: JSON Schema of its arguments.
        output: JSON Schema of what it returns, None if the server does not say.
    """

    name: str
    input: Mapping[str, Any]
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pins:
    """What a version was built against.

    Attributes:
        knowledge: SHA-256 (hex) of each file of the knowledge base, by path in its folder; None if
            the agent has none.
    """

    agent: str
    agent_digest: str
    contracts: Mapping[str, ToolContract]
    knowledge: Mapping[str, str] | None = None

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Pins:
        """Return what `bundle` pins."""
        knowledge = None
        if bundle.manifest.retrieval is not None:
            folder = bundle.manifest.retrieval.path.rstrip("/") + "/"
            knowledge = {
                file.path.removeprefix(folder): file.sha256
                for file in bundle.digest.files
                if file.path.startswith(folder)
            }
        return cls(bundle.name, bundle.digest.value, bundle.contracts, knowledge)


def compare_tool(contract: ToolContract, live: LiveTool | None, *, source: str) -> EnvironmentPart:
    """Compare a contract with the tool its server describes; None: the server has none."""
    if live is None:
        return EnvironmentPart(
            PartKind.TOOL,
            contract.name,
            PartStatus.CHANGED,
            source,
            ("the server no longer has this tool",),
        )
    reasons = broken_promises(contract.input, dict(live.input), side=Side.INPUT)
    notes: list[str] = []
    if live.output is None:
        notes.append("the server does not say what it returns")
    else:
        output = dict(live.output)
        reasons += broken_promises(contract.output, output, side=Side.OUTPUT)
        reasons += list(_forbidden_fields(contract.output, output))
        if not reasons and _differs(contract.output, output):
            notes.append("its output is described in other words")
    known = set(contract.input.get("properties", {}))
    added = sorted(set(live.input.get("properties", {})) - known)
    if added and not reasons:
        notes.append(f"it takes further arguments: {', '.join(added[:_SHOWN])}")
    elif not reasons and _differs(contract.input, dict(live.input)):
        notes.append("its input is described in other words")
    status = PartStatus.SAME
    if reasons:
        status = PartStatus.CHANGED
    elif _differs(contract.input, dict(live.input)) or (
        live.output is not None and _differs(contract.output, dict(live.output))
    ):
        status = PartStatus.COMPATIBLE
    return EnvironmentPart(
        PartKind.TOOL,
        contract.name,
        status,
        source,
        tuple(dict.fromkeys(reasons)),
        tuple(notes),
    )


def compare_knowledge(
    pinned: Mapping[str, str], live: Mapping[str, str], *, name: str, source: str
) -> EnvironmentPart:
    """Compare the files of a knowledge base by their digests."""
    changed = sorted(path for path in pinned.keys() & live.keys() if pinned[path] != live[path])
    added, gone = sorted(live.keys() - pinned.keys()), sorted(pinned.keys() - live.keys())
    reasons = [
        f"{len(paths)} of {len(pinned)} files {word}: {_some(paths)}"
        for paths, word in ((changed, "changed"), (gone, "are gone"))
        if paths
    ]
    if added:
        reasons.append(f"{len(added)} files are new: {_some(added)}")
    status = PartStatus.CHANGED if reasons else PartStatus.SAME
    return EnvironmentPart(PartKind.KNOWLEDGE, name, status, source, tuple(reasons))


def unknown_part(kind: PartKind, name: str, *, source: str, why: str) -> EnvironmentPart:
    """Return a part that could not be read."""
    return EnvironmentPart(kind, name, PartStatus.UNKNOWN, source, (why,))


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (" …" if len(paths) > _SHOWN else "")


def _differs(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return json.dumps(_bare(left), sort_keys=True) != json.dumps(_bare(right), sort_keys=True)


_WORDS = frozenset({"title", "description", "examples", "example", "$schema", "default"})


def _bare(schema: Any, depth: int = 0) -> Any:
    """Return a schema without its annotations."""
    if depth > _MAX_DEPTH:
        return schema
    if isinstance(schema, Mapping):
        found: dict[str, Any] = {}
        for key, value in schema.items():
            if key == "properties" and isinstance(value, Mapping):
                # What stands below are names of fields, which may be called "title".
                found[key] = {name: _bare(inner, depth + 1) for name, inner in value.items()}
            elif key == "required" and isinstance(value, list):
                found[key] = sorted(map(str, value))
            elif key not in _WORDS:
                found[key] = _bare(value, depth + 1)
        return found
    if isinstance(schema, list):
        return [_bare(item, depth + 1) for item in schema]
    return schema


def _forbidden_fields(contract: Any, live: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the fields a live output may hold and the contract's output forbids."""
    if depth > _MAX_DEPTH or not isinstance(contract, Mapping) or not isinstance(live, Mapping):
        return
    ours, theirs = contract.get("properties", {}), live.get("properties", {})
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return
    if contract.get("additionalProperties") is False:
        for name in sorted(theirs.keys() - ours.keys()):
            field = f"{path}.{name}" if path else name
            yield f"output field `{field}` is new, and the contract forbids undeclared fields"
    for name in sorted(ours.keys() & theirs.keys()):
        field = f"{path}.{name}" if path else name
        yield from _forbidden_fields(ours[name], theirs[name], field, depth + 1)
    if "items" in contract and "items" in live:
        yield from _forbidden_fields(contract["items"], live["items"], f"{path}[]", depth + 1)
