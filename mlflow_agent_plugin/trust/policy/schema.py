"""What policies see of a tool call: a Cedar schema generated from the tool contracts.

Rules:
- string → String, integer → Long, boolean → Boolean, number → decimal (four places), array → Set,
  object with properties → Record. Optional or nullable → attribute not required; nulls are dropped.
- Only declared attributes reach Cedar, each built here from a value of the declared type. So keys
  that Cedar would interpret (``__entity``, ``__extn``), NaN, huge integers and deep nesting never
  get there: they are a `FactError`, and a `FactError` is a denial.
- Nothing is rounded. A number that needs a fifth decimal is refused.
- An argument that has no Cedar type (free-form objects, unions, tuples, recursive schemas) is
  *unseen*: a policy cannot name it, and the linter says so. Its provenance is still a fact.
- An argument the contract does not declare is refused, unless the contract says
  ``additionalProperties: true`` (or gives them a schema); then it is unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from mlflow_agent_plugin.entities import Effect, Provenance
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.package.contract import ToolContract

NAMESPACE = "Agent"
ROLE_TYPE, USER_TYPE, AGENT_TYPE, ACTION_TYPE = (
    f"{NAMESPACE}::{name}" for name in ("Role", "User", "Agent", "Action")
)
EFFECT_GROUPS = {effect: f"effect:{effect.value}" for effect in Effect}
"""Action groups; a tool name cannot hold a colon, so they never collide with tools."""

SESSION_TYPES = {
    "environment": "String",
    "calls": "Long",
    "turn": "Long",
    "untrusted_seen": "Boolean",
    "now": "Long",
    "verified": "Boolean",
    "tenant": "String",
    "approved": "Boolean",
}
PROVENANCES = frozenset(provenance.value for provenance in Provenance)

_LONG_LIMIT = 2**63
_DECIMAL_LIMIT = Decimal("922337203685477.5807")
_RESERVED = frozenset({"__entity", "__extn", "__expr"})

Converter = Callable[[Any], Any]


class FactError(ValueError):
    """A fact of a request is missing or not of its type; the message never holds the value."""


@dataclass(frozen=True)
class Shape:
    """One type as policies see it.

    Attributes:
        cedar: The type in Cedar's JSON schema form.
        convert: Turns a JSON value into Cedar's JSON for the type, or raises `FactError`.
        schema: The JSON Schema it came from, for the linter.
        attributes: For a Record, its attributes.
    """

    cedar: dict[str, Any]
    convert: Converter
    schema: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolFacts:
    """How the arguments of one tool become ``context.input`` and ``context.provenance``.

    Attributes:
        tool: Contract name.
        groups: Action groups the tool is in.
        action: The action in Cedar's JSON schema form.
        input: Shape of ``context.input``.
        origins: Arguments whose provenance is a fact.
        unseen: Dotted paths of arguments that policies cannot name.
    """

    tool: str
    groups: frozenset[str]
    action: dict[str, Any]
    input: Shape
    origins: frozenset[str]
    unseen: tuple[str, ...]

    def provenance(
        self, arguments: Mapping[str, Any], provenance: Mapping[str, str]
    ) -> dict[str, str]:
        """Return ``context.provenance`` for `arguments`.

        Raises:
            FactError: An argument has no provenance, or one outside the vocabulary.
        """
        found: dict[str, str] = {}
        for name, value in arguments.items():
            if value is None or name not in self.origins:
                continue
            origin = provenance.get(name)
            if not isinstance(origin, str) or origin not in PROVENANCES:
                raise FactError(f"provenance of argument {_short(name)} is missing or unknown")
            # a str enum is spelled as its value by json, so a plain str is all Cedar needs
            found[name] = origin
        return found


def tool_facts(contract: ToolContract) -> ToolFacts:
    """Derive what policies see of `contract`.

    Raises:
        PolicyError: An argument has a name Cedar reserves.
    """
    unseen: list[str] = []
    builder = _Builder(contract, unseen)
    shape = builder.record(contract.input, path=(), seen=frozenset())
    properties = contract.input.get("properties", {})
    required = set(contract.input.get("required", []))
    provenance = {
        name: {
            "type": "String",
            "required": name in required and not builder.nullable(schema),
        }
        for name, schema in properties.items()
    }
    action = {
        "memberOf": [{"id": EFFECT_GROUPS[contract.effect]}],
        "appliesTo": {
            "principalTypes": ["User"],
            "resourceTypes": ["Agent"],
            "context": {
                "type": "Record",
                "attributes": {
                    "input": shape.cedar,
                    "session": {"type": "Record", "attributes": _session_attributes()},
                    "provenance": {"type": "Record", "attributes": provenance},
                },
            },
        },
    }
    groups = frozenset({EFFECT_GROUPS[contract.effect]})
    return ToolFacts(contract.name, groups, action, shape, frozenset(properties), tuple(unseen))


def cedar_schema(
    agent: str, facts: Mapping[str, ToolFacts], roles: Mapping[str, str]
) -> dict[str, Any]:
    """Return the Cedar schema, in JSON form, of one agent.

    Args:
        agent: Agent name; the only resource.
        facts: What policies see of each tool, by tool name.
        roles: The roles policies may name; an enumerated entity type, so that a misspelt role is
            an error instead of a rule that never applies.
    """
    users: dict[str, Any] = {
        "shape": {
            "type": "Record",
            "attributes": {
                "user": {"type": "String"},
                "tenant": {"type": "String"},
                "verified": {"type": "Boolean"},
            },
        }
    }
    entity_types: dict[str, Any] = {"User": users, "Agent": {"enum": [agent]}}
    if roles:
        users["memberOfTypes"] = ["Role"]
        entity_types["Role"] = {"enum": sorted(roles)}
    actions: dict[str, Any] = {group: {} for group in EFFECT_GROUPS.values()}
    actions.update({name: tool.action for name, tool in sorted(facts.items())})
    return {NAMESPACE: {"entityTypes": entity_types, "actions": actions}}


def _session_attributes() -> dict[str, Any]:
    return {name: {"type": kind} for name, kind in SESSION_TYPES.items()}


class _Builder:
    """Walks one contract's input schema."""

    def __init__(self, contract: ToolContract, unseen: list[str]) -> None:
        self._contract = contract
        self._unseen = unseen

    def record(
        self, schema: Mapping[str, Any], *, path: tuple[str, ...], seen: frozenset[str]
    ) -> Shape:
        """Return the Record of an object schema with ``properties``."""
        required = set(schema.get("required", []))
        shapes: dict[str, Shape] = {}
        cedar: dict[str, Any] = {}
        for name, property_schema in schema.get("properties", {}).items():
            self._check_name(name)
            shape = self.shape(property_schema, path=(*path, name), seen=seen)
            if shape is None:
                self._unseen.append(".".join((*path, name)))
                continue
            shapes[name] = shape
            is_needed = name in required and not self.nullable(property_schema)
            cedar[name] = {**shape.cedar, "required": is_needed}
        declared = frozenset(schema.get("properties", {}))
        needed = [
            name
            for name, property_schema in schema.get("properties", {}).items()
            if name in required and not self.nullable(property_schema)
        ]
        is_open = schema.get("additionalProperties", False) is not False or bool(
            schema.get("patternProperties")
        )
        if is_open:
            self._unseen.append(".".join((*path, "*")))

        def convert(value: Any) -> dict[str, Any]:
            if not isinstance(value, (dict, Mapping)):
                raise FactError("an object is expected")
            for name in needed:
                if value.get(name) is None:
                    raise FactError(f"argument {_short(name)} is missing")
            found: dict[str, Any] = {}
            for name, item in value.items():
                if name not in declared:
                    if is_open and isinstance(name, str):
                        continue
                    raise FactError(f"argument {_short(name)} is not in the contract")
                if item is None or name not in shapes:
                    continue
                try:
                    found[name] = shapes[name].convert(item)
                except FactError as error:
                    raise FactError(f"argument {_short(name)}: {error}") from None
            return found

        return Shape({"type": "Record", "attributes": cedar}, convert, schema, shapes)

    def shape(self, schema: Any, *, path: tuple[str, ...], seen: frozenset[str]) -> Shape | None:
        """Return the shape of a property, None if Cedar has no type for it."""
        schema, seen = self._resolve(schema, seen)
        if schema is None:
            return None
        kind = _kind(schema)
        if kind in _SCALARS:
            cedar, convert = _SCALARS[kind]
            return Shape(cedar, convert, schema)
        if kind == "array" and "prefixItems" not in schema:
            item = self.shape(schema.get("items"), path=(*path, "[]"), seen=seen)
            if item is None or self.nullable(schema["items"]):
                return None
            return Shape({"type": "Set", "element": item.cedar}, _set_of(item.convert), schema)
        if kind == "object" and "properties" in schema:
            return self.record(schema, path=path, seen=seen)
        return None

    def nullable(self, schema: Any) -> bool:
        """Tell whether null is a value of `schema`."""
        schema, _ = self._resolve(schema, frozenset(), keep_null=True)
        if schema is None:
            return True
        if "enum" in schema:
            return None in schema["enum"]
        if "const" in schema:
            return schema["const"] is None
        kinds = schema.get("type")
        return kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or kinds is None

    def _resolve(
        self, schema: Any, seen: frozenset[str], *, keep_null: bool = False
    ) -> tuple[dict[str, Any] | None, frozenset[str]]:
        """Follow ``$ref`` and single-member combinations; None if that leads nowhere."""
        while isinstance(schema, dict):
            if "$ref" in schema:
                reference = schema["$ref"]
                if reference in seen:
                    return None, seen
                seen = seen | {reference}
                schema = self._target(reference)
                continue
            keys = [key for key in ("anyOf", "oneOf", "allOf") if key in schema]
            if not keys:
                return schema, seen
            members = schema[keys[0]]
            real = [member for member in members if member != {"type": "null"}]
            if len(real) != 1 or len(keys) != 1 or "type" in schema:
                return None, seen
            if keep_null and len(real) != len(members):
                return {"type": "null"}, seen
            schema = real[0]
        return None, seen

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return None
        found: Any = self._contract.input
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def _check_name(self, name: str) -> None:
        if name in _RESERVED:
            raise PolicyError(
                f"argument {name!r} of tool {self._contract.name!r} has a name Cedar reserves",
                where=f"{self._contract.name}.yaml",
                hint="Rename the argument.",
            )


def _kind(schema: Mapping[str, Any]) -> str | None:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        rest = [kind for kind in kinds if kind != "null"]
        if set(rest) == {"integer", "number"}:
            return "number"
        kinds = rest[0] if len(rest) == 1 else None
    if kinds is None:
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        found = {_kind_of(value) for value in values if value is not None}
        kinds = found.pop() if len(found) == 1 else None
    return kinds if isinstance(kinds, str) else None


def _kind_of(value: Any) -> str | None:
    # bool first: it is a subclass of int
    for kind, types in (("boolean", bool), ("integer", int), ("number", float), ("string", str)):
        if isinstance(value, types):
            return kind
    return None


def _to_string(value: Any) -> str:
    if not isinstance(value, str):
        raise FactError("a string is expected")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FactError("the text is not valid Unicode") from None
    return value


def _to_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FactError("true or false is expected")
    return value


def _to_long(value: Any) -> int:
    # JSON Schema counts 3.0 as an integer
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FactError("a whole number is expected")
    if not -_LONG_LIMIT <= value < _LONG_LIMIT:
        raise FactError("the number does not fit into 64 bits")
    return value


def _to_decimal(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FactError("a number is expected")
    # the shortest spelling of the float is what the caller wrote in JSON
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number) > _DECIMAL_LIMIT:
        raise FactError("the number is too large for a decimal")
    exact = round(number, 4)
    if exact != number:
        raise FactError("the number has more than four decimals")
    return f"{exact:f}"


def _set_of(convert: Converter) -> Converter:
    def to_set(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise FactError("an array is expected")
        return [convert(item) for item in value]

    return to_set


_SCALARS: dict[str | None, tuple[dict[str, Any], Converter]] = {
    "string": ({"type": "String"}, _to_string),
    "integer": ({"type": "Long"}, _to_long),
    "boolean": ({"type": "Boolean"}, _to_boolean),
    "number": ({"type": "Extension", "name": "decimal"}, _to_decimal),
}


def _short(name: object) -> str:
    return repr(str(name)[:64])
