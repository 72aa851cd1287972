"""Arguments that fit a tool's contract, for policy tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import PolicyError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.contract import ToolContract

_TEXTS = ("example", "a@example.org", "https://example.org/a", "2026-01-01", "2026-01-01T10:00:00Z")
_SCALARS: dict[str, tuple[Any, ...]] = {
    "string": (*_TEXTS, "A1", "A-1", "a1", "1", "12345", "EX", "e" * 32),
    "integer": (1, 0, 10, 100, 1000),
    "number": (1, 0.5, 10, 100),
    "boolean": (True, False),
    "null": (None,),
}
_DEEPEST = 8


def example_arguments(contract: ToolContract) -> dict[str, Any]:
    """Return arguments that fit the contract, with as many of its arguments as can be made up.

    Raises:
        PolicyError: A required argument cannot be made up and no example of the contract helps.
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - import cost

    fits = Draft202012Validator(contract.input).is_valid
    starts = [dict(example.input) for example in contract.examples]
    made_up = _made_up(contract.input, contract.input)
    if isinstance(made_up, dict):
        starts.append(made_up)
    found = max((start for start in starts if fits(start)), key=len, default=None)
    if found is None:
        raise PolicyError(
            f"no arguments can be made up for the policy tests of tool {contract.name!r}",
            where=f"{contract.name}.yaml",
            hint="Give the contract an example (examples: [{input: …, output: …}]).",
        )
    for name, schema in contract.input.get("properties", {}).items():
        if name not in found:
            value = _made_up(schema, contract.input)
            if value is not None and fits({**found, name: value}):
                found = {**found, name: value}
    return {name: value for name, value in found.items() if value is not None}


def _made_up(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that fits `schema`, None if none was found."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    whole = {**schema, "$defs": root.get("$defs", {})}
    fits = Draft202012Validator(whole).is_valid
    return next((value for value in _tries(schema, root, depth) if fits(value)), None)


def _tries(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[Any]:
    tries = [*schema.get("examples", []), *schema.get("enum", [])]
    tries += [schema[key] for key in ("const", "default", "minimum", "maximum") if key in schema]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        definition = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
        tries.append(_made_up(definition, root, depth + 1))
    for key in ("anyOf", "oneOf", "allOf"):
        tries += [_made_up(part, root, depth + 1) for part in schema.get(key, [])]
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "array":
            item = _made_up(schema.get("items", {}), root, depth + 1)
            count = max(schema.get("minItems", 1), 1)
            tries.append([item] * count if item is not None else [])
        elif kind == "object":
            tries.append(
                {
                    name: _made_up(part, root, depth + 1)
                    for name, part in schema.get("properties", {}).items()
                    if name in schema.get("required", ())
                }
            )
        else:
            tries += _SCALARS.get(kind, ())
    if "type" not in schema:
        tries.append("example")
    return [value for value in tries if value is not None]
