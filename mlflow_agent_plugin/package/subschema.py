"""Does every value of one JSON Schema fit another?

Rules:
- Both schemas are read as draft 2020-12. The answer is a list of reasons in words; an empty list
  means yes. It may err only towards "no": what is not understood counts as a broken promise when
  it changed.
- For arguments the question is whether the new schema accepts all the old one did; for outputs
  whether the old schema describes all the new one allows. Two exceptions, both because callers
  read fields by name: an undeclared field is never relied on, so declaring a new optional argument
  or a new output field breaks nothing; and removing a declared field always does.
- Annotations (title, description, default, examples …) promise nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_ANNOTATIONS = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$schema",
    ]
)
_COMPARED = frozenset(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "$ref",
        "$defs",
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "uniqueItems",
    ]
)
# A lower limit narrows when it rises; an upper limit when it falls.
_LOWER = ("minLength", "minItems", "minProperties")
_UPPER = ("maxLength", "maxItems", "maxProperties")
# A constraint of these only narrows: taking it away (input) or adding it (output) breaks nothing.
_ONLY_NARROW = frozenset({"pattern", "format", "multipleOf", "not", "contains"})
_MAX_STEPS = 20_000
_MAX_REFERENCES = 64


class Side(str, Enum):
    """Which of a tool's two schemas is compared."""

    INPUT = "argument"
    OUTPUT = "output field"


def broken_promises(old: dict[str, Any], new: dict[str, Any], *, side: Side) -> list[str]:
    """Return why `new` breaks what `old` promised, one sentence each; empty if it does not."""
    try:
        found = list(_Comparison(side, old, new).compare(old, new))
    except (_TooComplexError, RecursionError):
        found = [f"the {side.name.lower()} schema changed and is too complex to be compared"]
    return list(dict.fromkeys(found))


class _TooComplexError(Exception):
    """The comparison would take too many steps."""


@dataclass
class _Work:
    """What one comparison has done so far; bounds it on recursive schemas."""

    steps: int = 0
    open_pairs: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True)
class _Comparison:
    """A place in both schemas, and what is being asked there."""

    side: Side
    old_root: dict[str, Any]
    new_root: dict[str, Any]
    path: str = ""
    work: _Work = field(default_factory=_Work)

    def compare(self, old: Any, new: Any) -> Iterator[str]:
        """Yield every promise of `old` that `new` breaks at this place and below."""
        old = _resolve(old, self.old_root)
        new = _resolve(new, self.new_root)
        pair = _spelling(old), _spelling(new)
        if pair[0] == pair[1] and (
            "$ref" not in pair[0] or _equal(self.old_root.get("$defs"), self.new_root.get("$defs"))
        ):
            return
        if pair in self.work.open_pairs:
            return  # a recursive schema: the question is being answered further out
        self.work.steps += 1
        if self.work.steps > _MAX_STEPS:
            raise _TooComplexError
        self.work.open_pairs.add(pair)
        yield from list(self._compare_resolved(old, new))
        self.work.open_pairs.remove(pair)

    def _compare_resolved(self, old: Any, new: Any) -> Iterator[str]:
        alternatives = _alternatives(old), _alternatives(new)
        if max(len(branches) for branches in alternatives) > 1:
            yield from self._compare_alternatives(*alternatives)
            return
        old, new = alternatives[0][0], alternatives[1][0]
        finite = self._compare_values(old, new)
        if finite is not None:
            yield from finite
            return
        yield from self._compare_types(old, new)
        yield from self._compare_bounds(old, new)
        yield from self._compare_objects(old, new)
        if "items" in old or "items" in new:
            inner = replace(self, path=f"{self.path}[]")
            yield from inner.compare(old.get("items", True), new.get("items", True))
        for keyword in sorted((set(old) | set(new)) - _COMPARED - _ANNOTATIONS):
            if not _equal(old.get(keyword), new.get(keyword)) and self._opaque_breaks(
                keyword, old, new
            ):
                yield f"`{keyword}` of {self.name} changed, which cannot be compared"

    @property
    def name(self) -> str:
        """This place in words."""
        if self.path:
            return f"{self.side.value} `{self.path}`"
        return "the input" if self.side is Side.INPUT else "the output"

    @property
    def _is_input(self) -> bool:
        return self.side is Side.INPUT

    def _breaks(self, *, narrower: bool, wider: bool) -> bool:
        return narrower if self._is_input else wider

    def _opaque_breaks(self, keyword: str, old: Any, new: Any) -> bool:
        if keyword not in _ONLY_NARROW:
            return True
        return keyword in (new if self._is_input else old)

    def _compare_alternatives(self, old: list[Any], new: list[Any]) -> Iterator[str]:
        given, accepting = (old, new) if self._is_input else (new, old)
        for branch in given:
            pairs = (
                ((branch, other) if self._is_input else (other, branch)) for other in accepting
            )
            if not any(not list(self.compare(*pair)) for pair in pairs):
                verb = "no longer accepts" if self._is_input else "may now be"
                yield f"{self.name} {verb} {_describe(branch)}"

    def _compare_values(self, old: Any, new: Any) -> list[str] | None:
        """Decide exactly when the side that must fit lists its values; None if it does not."""
        given, accepting = (old, new) if self._is_input else (new, old)
        given_root, root = (
            (self.old_root, self.new_root) if self._is_input else (self.new_root, self.old_root)
        )
        values = _listed(given)
        if values is None:
            return None
        from jsonschema import Draft202012Validator

        rest = {key: given[key] for key in given if key not in {"enum", "const"}}
        own = Draft202012Validator({**rest, "$defs": given_root.get("$defs", {})})
        validator = Draft202012Validator({**accepting, "$defs": root.get("$defs", {})})
        refused = [v for v in values if own.is_valid(v) and not validator.is_valid(v)]
        if not refused:
            return []
        shown = ", ".join(repr(value) for value in refused[:5])
        verb = "no longer accepts" if self._is_input else "may now be"
        return [f"{self.name} {verb} {shown}{' …' if len(refused) > 5 else ''}"]

    def _compare_types(self, old: Any, new: Any) -> Iterator[str]:
        before, after = _types(old), _types(new)
        lost, gained = _without(before, after), _without(after, before)
        if self._breaks(narrower=bool(lost), wider=bool(gained)):
            yield (
                f"the type of {self.name} {'narrowed' if self._is_input else 'widened'} "
                f"from {_spell(before)} to {_spell(after)}"
            )
        has = _listed(old) is not None, _listed(new) is not None
        if self._breaks(narrower=has[1], wider=has[0]) and has[0] != has[1]:
            what = "now takes listed values only" if self._is_input else "may now be any value"
            yield f"{self.name} {what}"

    def _compare_bounds(self, old: Any, new: Any) -> Iterator[str]:
        for keyword in (*_LOWER, *_UPPER):
            sign = 1 if keyword in _LOWER else -1
            yield from self._compare_limit(
                keyword, sign, _limit(old.get(keyword), sign), _limit(new.get(keyword), sign)
            )
        for keyword, sign in (("minimum", 1), ("maximum", -1)):
            yield from self._compare_limit(
                keyword, sign, _number_limit(old, keyword, sign), _number_limit(new, keyword, sign)
            )
        unique = bool(old.get("uniqueItems")), bool(new.get("uniqueItems"))
        if unique[0] != unique[1] and self._breaks(narrower=unique[1], wider=unique[0]):
            yield f"uniqueItems of {self.name} changed from {unique[0]} to {unique[1]}"

    def _compare_limit(self, keyword: str, sign: int, old: _Limit, new: _Limit) -> Iterator[str]:
        if self._breaks(narrower=new > old, wider=new < old):
            before, after = _shown(old, sign), _shown(new, sign)
            yield f"{keyword} of {self.name} changed from {before} to {after}"

    def _compare_objects(self, old: Any, new: Any) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed_before, needed_after = set(old.get("required", [])), set(new.get("required", []))
        for name in sorted(set(before) - set(after)):
            yield f"{self._at(name).name} was removed"
        for name in sorted(set(before) & set(after)):
            yield from self._at(name).compare(before[name], after[name])
        if self._is_input:
            for name in sorted(needed_after - needed_before):
                known = name in before
                yield f"{self._at(name).name} {'became' if known else 'is new and'} required"
        else:
            for name in sorted(needed_before - needed_after):
                if name in after or name not in before:
                    yield f"{self._at(name).name} became optional"
        others = old.get("additionalProperties", True)
        if isinstance(others, dict):  # typed, so callers may rely on fields without a name too
            for name in sorted(set(after) - set(before)):
                yield from self._at(name).compare(others, after[name])
        yield from self._compare_additional(others, new.get("additionalProperties", True))

    def _compare_additional(self, old: Any, new: Any) -> Iterator[str]:
        """Compare what undeclared fields may hold."""
        if self._is_input and new is False and old is not False:
            yield f"{self.name} no longer accepts undeclared fields"
        elif (isinstance(old, dict) and new is not False) or (
            self._is_input and old is True and isinstance(new, dict)
        ):
            yield from self._at("*").compare(old, new)

    def _at(self, name: str) -> _Comparison:
        path = f"{self.path}.{name}" if self.path else name
        return replace(self, path=path)


_Limit = tuple[float, int]
"""How strict a limit is: larger is narrower. The second part tells ``>`` from ``>=``."""

_NO_LIMIT: _Limit = (float("-inf"), 0)


def _limit(value: Any, sign: int) -> _Limit:
    return _NO_LIMIT if value is None else (sign * value, 0)


def _number_limit(schema: Any, keyword: str, sign: int) -> _Limit:
    exclusive = "exclusive" + keyword[0].upper() + keyword[1:]
    limits = [_limit(schema.get(keyword), sign)]
    if schema.get(exclusive) is not None:
        limits.append((sign * schema[exclusive], 1))
    return max(limits)


def _shown(limit: _Limit, sign: int) -> str:
    if limit == _NO_LIMIT:
        return "no limit"
    return f"{sign * limit[0]:g}{' (exclusive)' if limit[1] else ''}"


def _equal(left: Any, right: Any) -> bool:
    return _spelling(left) == _spelling(right)


def _spelling(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _resolve(schema: Any, root: dict[str, Any]) -> Any:
    """Follow ``$ref`` (local to the contract) and spell boolean schemas as objects."""
    for _ in range(_MAX_REFERENCES):
        if schema is True:
            return {}
        if schema is False:
            return {"not": {}}
        if "$ref" not in schema:
            return schema
        target = root.get("$defs", {}).get(schema["$ref"].removeprefix("#/$defs/"), True)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if beside.keys() - _ANNOTATIONS:
            return {**beside, "allOf": [target]}
        schema = target
    return {"not": {}}


def _alternatives(schema: Any) -> list[Any]:
    """Split ``anyOf`` and ``oneOf`` into schemas of their own; [schema] if that is not possible."""
    keys = [key for key in ("anyOf", "oneOf") if key in schema]
    if len(keys) != 1:
        return [schema]
    base = {k: v for k, v in schema.items() if k != keys[0] and k not in _ANNOTATIONS}
    branches = [{} if branch is True else branch for branch in schema[keys[0]]]
    if any(not isinstance(branch, dict) or base.keys() & branch.keys() for branch in branches):
        return [schema]
    if keys[0] == "oneOf" and not _are_disjoint(branches):
        return [schema]  # a value that fits two branches of oneOf fits none: not a union
    return [{**base, **branch} for branch in branches]


def _are_disjoint(branches: list[dict[str, Any]]) -> bool:
    types = [set(_types(branch)) for branch in branches]
    for kinds in types:
        if "number" in kinds:
            kinds.add("integer")
    return sum(map(len, types)) == len(set().union(*types))


def _listed(schema: Any) -> list[Any] | None:
    """Return the values `schema` lists, None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _types(schema: Any) -> tuple[str, ...]:
    declared = schema.get("type", list(_TYPES))
    names = [declared] if isinstance(declared, str) else declared
    return tuple(name for name in _TYPES if name in names)


def _without(types: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    """Return which of `types` are not covered by `others`; a number covers an integer."""
    return [
        name
        for name in types
        if name not in others and not (name == "integer" and "number" in others)
    ]


def _spell(types: tuple[str, ...]) -> str:
    return "anything" if set(types) == set(_TYPES) else " or ".join(types) or "nothing"


def _describe(schema: Any) -> str:
    if _listed(schema) is not None:
        return "one of " + ", ".join(repr(value) for value in (_listed(schema) or [])[:5])
    title = schema.get("title")
    return f"{_spell(_types(schema))}{f' ({title})' if title else ''}"
