"""Text and YAML from a bundle, with errors that name file, line and field.

Rules:
- Text is UTF-8 and at most `MAX_TEXT_BYTES` long.
- YAML is one document of JSON values by the core schema of YAML 1.2: ``no`` and ``2024-01-31`` are
  text, keys are text, a key that stands twice is an error; tags, merge keys and numbers that JSON
  cannot spell are errors.
- Aliases may repeat only so many nodes and nesting is bounded, so that a small file cannot
  become a large value or exhaust the stack.
- A value that does not fit its format is ONE error, about the first wrong line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mlflow_agent_plugin.errors import AgentError, BundleError
from mlflow_agent_plugin.package.inventory import open_regular
from mlflow_agent_plugin.package.yaml_values import CoreLoader, Location, NodeReader, ValueBuilder

MAX_TEXT_BYTES = 5 * 1024**2

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class YamlDocument:
    """A YAML file as plain values, with the line of each.

    Attributes:
        name: The file, as error messages call it.
        data: JSON values.
        lines: Line (from 1) of every key and list item by its path from the top.
    """

    name: str
    data: Any
    lines: Mapping[Location, int]

    def where(self, *location: str | int) -> str:
        """Return ``file:line: field`` of `location`, or of the nearest part that exists."""
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        field = spell_location(location)
        place = f"{self.name}:{self.lines.get(known, 1)}"
        return f"{place}: {field}" if field else place


def spell_location(location: Location) -> str:
    """Return `location` as people write it: ``tools.python[0].name``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def decode_text(data: bytes, *, name: str, error: type[AgentError] = BundleError) -> str:
    """Decode UTF-8 (with or without a byte order mark).

    Raises:
        AgentError: Of kind `error`; `data` is too long or not UTF-8.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise _too_long(name, error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise error(
            "is not UTF-8 text", where=f"{name}:{line}", hint="Save the file as UTF-8."
        ) from None


def read_text(path: Path, *, name: str | None = None, error: type[AgentError] = BundleError) -> str:
    """Read a UTF-8 file; `name` is what messages call it (default: its path).

    Raises:
        AgentError: Of kind `error`; the file is missing, too long or not UTF-8.
    """
    name = str(path) if name is None else name
    try:
        with open_regular(path, where=name) as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except BundleError as problem:
        raise error(problem.problem, where=problem.where, hint=problem.hint) from problem
    return decode_text(data, name=name, error=error)


def read_yaml(
    path: Path, *, name: str | None = None, error: type[AgentError] = BundleError
) -> YamlDocument:
    """Read one YAML file; raises as `read_text` and `parse_yaml`."""
    name = str(path) if name is None else name
    return parse_yaml(read_text(path, name=name, error=error), name=name, error=error)


def parse_yaml(text: str, *, name: str, error: type[AgentError] = BundleError) -> YamlDocument:
    """Parse one YAML document under the rules of this module.

    Raises:
        AgentError: Of kind `error`; the text breaks one of the rules.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise _too_long(name, error)
    try:
        loader = CoreLoader(text)
        try:
            node = NodeReader(loader).read()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = 1 if mark is None else mark.line + 1
        raise error(
            f"is not valid YAML: {problem.problem or problem.context}",
            where=f"{name}:{line}",
            hint="Check indentation, quotes and colons on this line and the one above.",
        ) from None
    except yaml.reader.ReaderError as problem:
        line = text[: problem.position].count("\n") + 1
        raise error(
            f"holds a character YAML does not allow ({problem.reason})",
            where=f"{name}:{line}",
            hint="Remove it, or write it as an escape in double quotes.",
        ) from None
    if node is None:
        raise error("is empty", where=f"{name}:1", hint="Fill it in or remove it.")
    builder = ValueBuilder(name, error)
    return YamlDocument(name, builder.build(node, ()), builder.lines)


def validate_document(
    document: YamlDocument, model: type[M], *, error: type[AgentError] = BundleError
) -> M:
    """Check `document` against `model`.

    Raises:
        AgentError: Of kind `error`; one error that names file, line and field of the first problem,
            and the lines of the others.
    """
    if not isinstance(document.data, dict):
        raise error(
            "must hold fields (`name: value`)",
            where=f"{document.name}:1",
            hint=f"See the reference for the fields of a {model.__name__}.",
        )
    try:
        return model.model_validate(document.data)
    except ValidationError as problem:
        found = [_Problem.of(details, document, model) for details in problem.errors()]
    found.sort(key=lambda item: item.line)
    first, others = found[0], found[1:]
    hint = first.hint
    if others:
        places = ", ".join(f"line {item.line} ({item.field or 'file'})" for item in others[:5])
        hint += f" There are problems too on {places}{' and more' if len(others) > 5 else ''}."
    field = f": {first.field}" if first.field else ""
    raise error(first.text, where=f"{document.name}:{first.line}{field}", hint=hint)


@dataclass(frozen=True)
class _Problem:
    """One complaint of pydantic in our words."""

    line: int
    field: str
    text: str
    hint: str

    @classmethod
    def of(cls, details: ErrorDetails, document: YamlDocument, model: type[BaseModel]) -> _Problem:
        location = tuple(part for part in details["loc"] if part != "[key]")
        message = details["msg"].removeprefix("Value error, ")
        if not location or details["type"] in {"value_error", "assertion_error"}:
            location = _named_in(message, document, location) or location
        known = location
        while known and known not in document.lines:
            known = known[:-1]
        line = document.lines.get(known, 1)
        field = spell_location(location)
        if details["type"] == "extra_forbidden":
            return cls(line, field, "unknown field", _suggest(model, location))
        if details["type"] == "missing":
            return cls(
                line, field, "required field is missing", f"Add `{location[-1]}:` to this section."
            )
        got = _show(field, details.get("input"))
        return cls(
            line,
            field,
            message[:1].lower() + message[1:],
            f"Correct it{got}." if got else "Correct it.",
        )


def _named_in(message: str, document: YamlDocument, base: Location) -> Location | None:
    """Find the field a model-wide complaint starts with, as in ``tools.python names …``."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*", message)
    if match is None:
        return None
    location = (*base, *match.group().split("."))
    return location if location in document.lines else None


def _suggest(model: type[BaseModel], location: Location) -> str:
    owner = _model_at(model, location[:-1])
    if owner is None:
        return "Remove it."
    allowed = sorted(field.alias or name for name, field in owner.model_fields.items())
    close = get_close_matches(str(location[-1]), allowed, n=1)
    if close:
        return f"Did you mean `{close[0]}`? Otherwise remove it."
    return f"Remove it; allowed here: {', '.join(allowed)}."


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the model that describes the section at `location`."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            if part not in fields:
                return None
            current = _unwrap(fields[str(part)].annotation)
        elif get_origin(current) in {list, dict}:
            current = _unwrap(get_args(current)[-1])
        else:
            return None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, UnionType}:
            kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
            if len(kinds) != 1:
                return annotation
            annotation = kinds[0]
        else:
            return annotation


_SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def _show(field: str, value: Any) -> str:
    """Say what stands there now; nothing that may be a secret, nothing long."""
    if _SECRET.search(field):
        return ""
    if value is None or isinstance(value, (str, int, float, bool)):
        text = repr(value)
        return f"; it is {text if len(text) <= 60 else text[:57] + '...'} now"
    return f"; it is a {'list' if isinstance(value, list) else 'section'} now"


def _too_long(name: str, error: type[AgentError]) -> AgentError:
    return error(
        f"is longer than {MAX_TEXT_BYTES // 1024**2} MB",
        where=name,
        hint="Shorten it, or keep data outside the bundle's text files.",
    )
