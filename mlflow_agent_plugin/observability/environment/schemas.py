"""OpenAPI operations as tools: what they take and return, as plain JSON Schema.

Rules:
- A tool's arguments are the operation's path, query and JSON body fields; headers and cookies are
  not the model's business.
- What it returns is the JSON body of its first success answer (200, 201, 2XX, default).
- References are written out; one that leads out of the document, or in a circle, cannot be
  compared and makes the tool unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.environment.compare import LiveTool

_METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_SUCCESS = ("200", "201", "202", "2XX", "2xx", "default")
_MAX_NODES = 50_000


def operations_of(document: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], list[Any]]]:
    """Return operation and path parameters by operationId.

    Raises:
        DataError: `document` is no OpenAPI 3 document.
    """
    version = document.get("openapi")
    paths = document.get("paths")
    if not isinstance(version, str) or not version.startswith("3."):
        raise DataError("is no OpenAPI 3 document", hint="Give the address of openapi.json.")
    if not isinstance(paths, Mapping):
        raise DataError("describes no paths")
    found: dict[str, tuple[Mapping[str, Any], list[Any]]] = {}
    for item in paths.values():
        if not isinstance(item, Mapping):
            continue
        shared = item.get("parameters")
        for method in _METHODS:
            operation = item.get(method)
            if isinstance(operation, Mapping) and isinstance(operation.get("operationId"), str):
                parameters = list(shared) if isinstance(shared, list) else []
                found[operation["operationId"]] = (operation, parameters)
    return found


def tool_of(
    name: str, operation: Mapping[str, Any], shared: list[Any], document: Mapping[str, Any]
) -> LiveTool:
    """Return an operation as a tool.

    Raises:
        DataError: Its schemas cannot be written out.
    """
    expand = _Expansion(document)
    properties: dict[str, Any] = {}
    required: list[str] = []
    own = operation.get("parameters")
    for parameter in [*shared, *(own if isinstance(own, list) else [])]:
        found = expand(parameter)
        if found.get("in") not in ("path", "query"):
            continue
        properties[str(found.get("name"))] = found.get("schema", {})
        if found.get("required") or found.get("in") == "path":
            required.append(str(found.get("name")))
    body = expand(operation.get("requestBody") or {})
    schema = _json_schema(body)
    others = False
    if schema is not None:
        properties |= schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if body.get("required"):
            required += schema.get("required", [])
    arguments = {
        "type": "object",
        "properties": properties,
        "required": sorted(set(required)),
        "additionalProperties": others,
    }
    answers = operation.get("responses") or {}
    chosen = next((answers[code] for code in _SUCCESS if code in answers), None)
    return LiveTool(name, arguments, None if chosen is None else _json_schema(expand(chosen)))


def _json_schema(part: Mapping[str, Any]) -> Any:
    content = part.get("content")
    if not isinstance(content, Mapping):
        return None
    for kind, described in content.items():
        if str(kind).split(";")[0].strip().endswith("json") and isinstance(described, Mapping):
            return described.get("schema")
    return None


class _Expansion:
    """Writes references of one document out."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._nodes = 0

    def __call__(self, node: Any) -> Any:
        return self._expand(node, ())

    def _expand(self, node: Any, open_references: tuple[str, ...]) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise DataError("its schemas are too large to be compared")
        if isinstance(node, list):
            return [self._expand(item, open_references) for item in node]
        if not isinstance(node, Mapping):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference in open_references:
                raise DataError(f"{reference} refers to itself, which cannot be compared")
            target = self._expand(self._target(reference), (*open_references, reference))
            beside = {key: value for key, value in node.items() if key != "$ref"}
            # OpenAPI 3.0 ignores what stands beside a reference, 3.1 lets it narrow the target.
            return {**target, **self._expand(beside, open_references)} if beside else target
        found = {key: self._expand(value, open_references) for key, value in node.items()}
        return _spelt_today(found)

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise DataError(f"refers to {reference}, which is another document")
        target: Any = self._document
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise DataError(f"refers to {reference}, which is not there")
            target = target[key]
        return target


def _spelt_today(schema: dict[str, Any]) -> dict[str, Any]:
    """Spell what OpenAPI 3.0 spells otherwise as JSON Schema does."""
    if schema.pop("nullable", None) is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):
            strict = schema.pop(exclusive)
            if strict and limit in schema:
                schema[exclusive] = schema.pop(limit)
    return schema
