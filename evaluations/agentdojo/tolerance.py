"""Contracts files as people write them, brought into the one format `contracts` reads.

Rules:
- Nothing is read in a way that trusts a tool more than the file says: a tool the file leaves out is
  irreversible, every argument of it directs its effect, and third parties write what it returns.
- Other names of a field and other shapes of the file are read if they can mean one thing only; a
  field nobody knows is an error, because it may be a safety fact with a typo.
- Everything that was read in another way than it was written is a note, and notes are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from mlflow_agent_plugin.errors import SuiteError
from mlflow_agent_plugin.package.reading import YamlDocument

UNSAID: dict[str, Any] = {"effect": "irreversible", "untrusted_output": True}
"""What is assumed of a tool that a file leaves out; without sinks, every argument is one."""

_FIELDS = {
    "effects": "effect",
    "side_effect": "effect",
    "side_effects": "effect",
    "untrusted": "untrusted_output",
    "untrusted_outputs": "untrusted_output",
    "output_untrusted": "untrusted_output",
    "sinks": "sink_arguments",
    "sink": "sink_arguments",
    "sink_args": "sink_arguments",
    "sink_argument": "sink_arguments",
    "trusted_output_fields": "trusted_fields",
    "untrusted_output_fields": "untrusted_fields",
}
_PROSE = frozenset(
    "apiVersion comment description input name note notes output reason title version why".split()  # noqa: SIM905
)
"""Fields that say nothing to the harness: signatures come from the suite itself."""
_EFFECTS = {
    "none": "read",
    "pure": "read",
    "query": "read",
    "read_only": "read",
    "readonly": "read",
    "reads": "read",
    "reversible": "write",
    "writes": "write",
    "destructive": "irreversible",
    "irreversible_write": "irreversible",
}
_BY_FACT = ("effect", "untrusted_output", "sink_arguments", "trusted_fields", "untrusted_fields")


def bring_into_shape(
    document: YamlDocument,
    tools: Collection[str],
    fields_of: Callable[[str], Collection[str]],
) -> tuple[YamlDocument, list[str]]:
    """Return the document in the format of a `ContractsFile`, and notes on what was assumed.

    Args:
        document: The file.
        tools: Tools of the suite.
        fields_of: Returns the fields a tool's output has.

    Raises:
        SuiteError: The file is no contracts file in any shape.
    """
    if not isinstance(document.data, Mapping | list):
        raise SuiteError(
            "must hold a section `tools`",
            where=document.where(),
            hint="Start from evaluations/agentdojo/contracts/TEMPLATE.yaml.",
        )
    notes: list[str] = []
    data = document.data if isinstance(document.data, Mapping) else {"tools": document.data}
    given = _by_tool(data, tools, document)
    if not given:
        raise _nothing(document)
    shaped: dict[str, Any] = {}
    for name, facts in given.items():
        if name in tools:
            shaped[name] = _facts(name, facts, notes, fields_of)
        else:
            notes.append(f"{name} is no tool of the suite: left out")
    for name in sorted(set(tools) - set(shaped)):
        shaped[name] = dict(UNSAID)
        notes.append(
            f"nothing is said about {name}: taken as irreversible, untrusted, every argument a sink"
        )
    left = {key: value for key, value in data.items() if _is_left(key, data, given)}
    return YamlDocument(document.name, {**left, "tools": shaped}, document.lines), notes


def _is_left(key: str, data: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Tell whether the format's own check has to see a section, if only to refuse it."""
    read = {"tools"} if "tools" in data else set(given)
    if "tools" not in data:
        read |= {key for key in data if _FIELDS.get(key, key) in _BY_FACT}
    return key not in read and key not in _PROSE


def _by_tool(
    data: Mapping[str, Any], tools: Collection[str], document: YamlDocument
) -> dict[str, Any]:
    """Return the facts by tool, from any of the shapes a file may have."""
    if isinstance(data.get("tools"), Mapping):
        return dict(data["tools"])
    if isinstance(data.get("tools"), list):
        found = {}
        for at, entry in enumerate(data["tools"]):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise SuiteError(
                    "is no entry with a `name`",
                    where=document.where("tools", at),
                    hint="Write `name`, `effect`, `untrusted_output`, `sink_arguments`.",
                )
            found[entry["name"]] = entry
        return found
    sections = {_FIELDS.get(key, key): value for key, value in data.items()}
    if "effect" in sections:
        by_fact: dict[str, Any] = {}
        for fact in _BY_FACT:
            for name, value in _of_section(fact, sections.get(fact)):
                by_fact.setdefault(name, {})[fact] = value
        return by_fact
    rest = {key: value for key, value in data.items() if key not in {"suite", *_PROSE}}
    if rest and any(key in tools for key in rest):
        return rest
    raise _nothing(document)


def _nothing(document: YamlDocument) -> SuiteError:
    return SuiteError(
        "says nothing about any tool",
        where=document.where("tools"),
        hint="Start from evaluations/agentdojo/contracts/TEMPLATE.yaml.",
    )


def _of_section(fact: str, section: Any) -> Iterator[tuple[str, Any]]:
    """Yield (tool, value) of a section that lists one fact for all tools."""
    if isinstance(section, list):  # untrusted_output: [tool, tool]
        yield from ((str(name), True) for name in section)
    elif isinstance(section, Mapping):
        for key, value in section.items():
            if fact == "effect" and isinstance(value, list):  # effect: {read: [tool, tool]}
                yield from ((str(name), key) for name in value)
            else:
                yield str(key), value


def _facts(
    name: str, facts: Any, notes: list[str], fields_of: Callable[[str], Collection[str]]
) -> Any:
    if isinstance(facts, str):
        facts = {"effect": facts}
    if not isinstance(facts, Mapping):
        return facts  # the format's own check says what is wrong
    shaped: dict[str, Any] = {}
    for key, value in facts.items():
        if key in _PROSE:
            continue
        field = _FIELDS.get(key, key)
        if field != key:
            notes.append(f"{name}: `{key}` is read as `{field}`")
        shaped[field] = value
    effect = shaped.get("effect")
    if isinstance(effect, str):
        shaped["effect"] = effect.strip().lower().replace("-", "_").replace(" ", "_")
        shaped["effect"] = _EFFECTS.get(shaped["effect"], shaped["effect"])
    for field in ("sink_arguments", "trusted_fields", "untrusted_fields"):
        if isinstance(shaped.get(field), str):
            shaped[field] = [shaped[field]]
    sinks = shaped.get("sink_arguments")
    if isinstance(sinks, list):  # a part of an argument makes all of it a sink
        shaped["sink_arguments"] = list(dict.fromkeys(_head(sink) for sink in sinks))
    _untrusted_fields(name, shaped, notes, fields_of)
    return shaped


def _head(sink: Any) -> Any:
    return sink.partition(".")[0].partition("[")[0] if isinstance(sink, str) else sink


def _untrusted_fields(
    name: str,
    shaped: dict[str, Any],
    notes: list[str],
    fields_of: Callable[[str], Collection[str]],
) -> None:
    """Read a list of untrusted fields: the others are trusted, if all of the list is known."""
    listed = shaped.pop("untrusted_fields", None)
    if isinstance(shaped.get("untrusted_output"), list):
        listed = shaped.pop("untrusted_output")
    if listed is None:
        return
    shaped["untrusted_output"] = bool(listed)
    known = set(fields_of(name))
    unknown = [str(field) for field in listed if _last(field) not in known]
    if unknown:
        notes.append(f"{name}: its output has no field {unknown[0]!r}: all of it is untrusted")
    elif listed:
        trusted = sorted(known - {_last(field) for field in listed})
        shaped["trusted_fields"] = trusted
        notes.append(f"{name}: fields that are not listed are trusted ({', '.join(trusted)})")


def _last(field: Any) -> str:
    return str(field).rpartition(".")[2].removesuffix("[]")
