"""Find conditions that are always true or never true.

A condition is put into disjunctive normal form, and each conjunction is checked for values that
satisfy all of it: intervals and excluded values for numbers, allowed values for strings that have
an ``enum`` in the contract (and for provenance), patterns of ``like`` against those. What is not a
comparison with a literal counts as an unknown that may be true or false, the same unknown wherever
the same expression stands. So a report is always right, and some hopeless conditions stay unfound.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

Literal = bool | int | str | Decimal
Path = tuple[str, ...]

_MAX_CONJUNCTIONS = 512
_NEGATED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_FLIPPED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_ORDERINGS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_DECIMAL_METHODS = {
    "lessThan": "<",
    "lessThanOrEqual": "<=",
    "greaterThan": ">",
    "greaterThanOrEqual": ">=",
}


@dataclass(frozen=True)
class Domain:
    """What is known of an attribute before any condition.

    Attributes:
        values: All possible values, None if not listed.
        low: Smallest possible number, None if unknown.
        high: Largest possible number, None if unknown.
    """

    values: frozenset[Literal] | None = None
    low: Decimal | None = None
    high: Decimal | None = None


Domains = Callable[[Path], Domain]


@dataclass(frozen=True)
class _Atom:
    """One fact: `subject` stands in relation `operator` to `value`."""

    subject: Path | str
    operator: str
    value: Any


_Conjunction = frozenset[_Atom]


class _TooLargeError(Exception):
    """The normal form has more conjunctions than are worth checking."""


def can_hold(conditions: list[tuple[Mapping[str, Any], bool]], domains: Domains) -> bool:
    """Tell whether all of `conditions` can hold at once; True also when that is not known.

    Args:
        conditions: Expressions in Cedar's JSON form, each with the truth value it must have.
        domains: What is known of an attribute path such as ``("context", "input", "amount")``.
    """
    try:
        groups = [list(_normal_form(body, wanted=wanted)) for body, wanted in conditions]
        total = 1
        for group in groups:
            total *= len(group)
        if total > _MAX_CONJUNCTIONS:
            return True
        return any(
            _satisfiable(frozenset().union(*combination), domains)
            for combination in product(*groups)
        )
    except (_TooLargeError, RecursionError, KeyError, TypeError, ValueError):
        return True


def raw_path(expression: Any) -> Path | None:
    """Return ``("context", "input", "amount")`` for ``context.input.amount``, else None."""
    parts: list[str] = []
    while isinstance(expression, Mapping) and len(expression) == 1:
        if "Var" in expression:
            return (expression["Var"], *reversed(parts))
        if "." not in expression:
            return None
        parts.append(expression["."]["attr"])
        expression = expression["."]["left"]
    return None


def attribute_path(expression: Any) -> Path | None:
    """Return as `raw_path`, with one spelling for facts that have two."""
    path = raw_path(expression)
    return None if path is None else _alias(path)


def walk(expression: Any) -> Iterator[Any]:
    """Yield every node of an expression in Cedar's JSON form, outermost first."""
    stack = [expression]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Mapping):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def literal(expression: Any) -> Literal | None:
    """Return the value of a literal expression, None if it is not one."""
    if not isinstance(expression, Mapping) or len(expression) != 1:
        return None
    ((operator, operand),) = expression.items()
    if operator == "Value" and isinstance(operand, bool | int | str):
        return operand
    if operator == "neg":
        inner = literal(operand["arg"])
        return -inner if isinstance(inner, int) and not isinstance(inner, bool) else None
    if operator == "decimal":
        text = literal(operand[0])
        try:
            return Decimal(text) if isinstance(text, str) else None
        except InvalidOperation:
            return None
    return None


def _alias(path: Path) -> Path:
    # the engine takes both from the actor, so they are one fact
    if path in {("context", "session", "verified"), ("context", "session", "tenant")}:
        return ("principal", path[-1])
    return path


def _normal_form(expression: Any, *, wanted: bool) -> list[_Conjunction]:
    """Return the disjunctive normal form of ``expression == wanted``."""
    found = _expand(expression, wanted=wanted)
    if len(found) > _MAX_CONJUNCTIONS:
        raise _TooLargeError
    return found


def _expand(expression: Any, *, wanted: bool) -> list[_Conjunction]:
    value = literal(expression)
    if isinstance(value, bool):
        return [frozenset()] if value is wanted else []
    if isinstance(expression, Mapping) and len(expression) == 1:
        ((operator, operand),) = expression.items()
        if operator == "!":
            return _normal_form(operand["arg"], wanted=not wanted)
        if operator in {"&&", "||"}:
            left = _normal_form(operand["left"], wanted=wanted)
            right = _normal_form(operand["right"], wanted=wanted)
            if (operator == "&&") is wanted:
                return _all_pairs(left, right)
            return [*left, *right]
        if operator == "if-then-else":
            found: list[_Conjunction] = []
            for name, holds in (("then", True), ("else", False)):
                test = _normal_form(operand["if"], wanted=holds)
                found += _all_pairs(test, _normal_form(operand[name], wanted=wanted))
            return found
        atom = _comparison(operator, operand, wanted=wanted)
        if atom is not None:
            return [frozenset({atom})] if isinstance(atom, _Atom) else [frozenset()] * int(atom)
        path = attribute_path(expression)
        if path is not None:
            return [frozenset({_Atom(path, "==", wanted)})]
    return [frozenset({_Atom(json.dumps(expression, sort_keys=True), "==", wanted)})]


def _all_pairs(left: list[_Conjunction], right: list[_Conjunction]) -> list[_Conjunction]:
    if len(left) * len(right) > _MAX_CONJUNCTIONS:
        raise _TooLargeError
    return [a | b for a, b in product(left, right)]


def _comparison(operator: str, operand: Any, *, wanted: bool) -> _Atom | bool | None:
    """Return a comparison as an atom, its truth if it is fixed, None if it is no comparison."""
    if operator in _DECIMAL_METHODS:
        left, right = operand
        operator = _DECIMAL_METHODS[operator]
    elif operator in _NEGATED:
        left, right = operand["left"], operand["right"]
    elif operator == "contains":
        return _membership(operand["left"], operand["right"], wanted=wanted)
    elif operator == "like":
        path = attribute_path(operand["left"])
        regex = "".join(
            ".*" if item == "Wildcard" else re.escape(item["Literal"])
            for item in operand["pattern"]
        )
        return _Atom(path, "like" if wanted else "unlike", regex) if path else None
    else:
        return None
    if left == right and operator in {"==", "!=", "<=", ">=", "<", ">"}:
        return (operator in {"==", "<=", ">="}) is wanted
    left_value, right_value = literal(left), literal(right)
    if left_value is not None and right_value is not None:
        return _compare(left_value, operator, right_value) is wanted
    if left_value is not None:
        left, right_value, operator = right, left_value, _FLIPPED[operator]
    path = attribute_path(left)
    if path is None or right_value is None:
        return None
    return _Atom(path, operator if wanted else _NEGATED[operator], right_value)


def _membership(left: Any, right: Any, *, wanted: bool) -> _Atom | None:
    path = attribute_path(right)
    items = left.get("Set") if isinstance(left, Mapping) else None
    if path is None or items is None:
        return None
    values = [literal(item) for item in items]
    if any(value is None for value in values):
        return None
    return _Atom(path, "in" if wanted else "not in", frozenset(values))


def _compare(left: Literal, operator: str, right: Literal) -> bool:
    if operator in {"==", "!="}:
        equal = type(left) is type(right) and left == right
        return equal if operator == "==" else not equal
    order: Any = left
    limit: Any = right
    return bool(_ORDERINGS[operator](order, limit))


def _satisfiable(conjunction: _Conjunction, domains: Domains) -> bool:
    by_subject: dict[Path | str, list[_Atom]] = {}
    for atom in conjunction:
        by_subject.setdefault(atom.subject, []).append(atom)
    return all(
        _values_exist(atoms, domains(subject) if isinstance(subject, tuple) else Domain())
        for subject, atoms in by_subject.items()
    )


def _values_exist(atoms: list[_Atom], domain: Domain) -> bool:
    candidates = domain.values
    if any(isinstance(atom.value, bool) for atom in atoms):
        candidates = frozenset({True, False})
    for atom in atoms:
        allowed = {"==": frozenset({atom.value}), "in": atom.value}.get(atom.operator)
        if allowed is not None:
            candidates = allowed if candidates is None else candidates & allowed
    if candidates is None:
        candidates = _small_range(atoms, domain)
    if candidates is None:
        return _interval_exists(atoms, domain)
    return any(
        _within(value, domain) and all(_fits(value, atom) for atom in atoms) for value in candidates
    )


def _fits(value: Literal, atom: _Atom) -> bool:
    if atom.operator in {"in", "not in"}:
        return (value in atom.value) is (atom.operator == "in")
    if atom.operator in {"like", "unlike"}:
        matches = isinstance(value, str) and re.fullmatch(atom.value, value, re.DOTALL) is not None
        return matches is (atom.operator == "like")
    return _compare(value, atom.operator, atom.value)


def _within(value: Literal, domain: Domain) -> bool:
    if isinstance(value, str | bool):
        return True
    return (domain.low is None or value >= domain.low) and (
        domain.high is None or value <= domain.high
    )


def _bounds(atoms: list[_Atom], domain: Domain) -> tuple[Decimal | None, Decimal | None, bool]:
    """Return the tightest (low, high, whether an end point is excluded where they meet)."""
    low, high, open_low, open_high = domain.low, domain.high, False, False
    for atom in atoms:
        if atom.operator not in {"<", "<=", ">", ">="}:
            continue
        limit = Decimal(atom.value)
        is_strict = len(atom.operator) == 1
        if atom.operator[0] == ">" and (low is None or limit > low or (limit == low and is_strict)):
            low, open_low = limit, is_strict
        if atom.operator[0] == "<" and (
            high is None or limit < high or (limit == high and is_strict)
        ):
            high, open_high = limit, is_strict
    return low, high, open_low or open_high


def _small_range(atoms: list[_Atom], domain: Domain) -> frozenset[Literal] | None:
    """Return every integer between the bounds if they are few; None for anything else."""
    compared = [atom.value for atom in atoms if atom.operator in _NEGATED]
    if not compared or not all(type(value) is int for value in compared):
        return None
    low, high, _ = _bounds(atoms, domain)
    if low is None or high is None or high - low > 64:
        return None
    first = int(low.to_integral_value(rounding="ROUND_CEILING"))
    return frozenset(range(first, int(high.to_integral_value(rounding="ROUND_FLOOR")) + 1))


def _interval_exists(atoms: list[_Atom], domain: Domain) -> bool:
    low, high, is_open = _bounds(atoms, domain)
    if low is None or high is None:
        return True
    return low < high or (low == high and not is_open)
