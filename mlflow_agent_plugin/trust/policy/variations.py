"""Requests that differ from a given one in a single fact, for explanations.

Rules:
- A fact gets only values the tool's own policies compare it with, and the numbers beside them: that
  is where an answer can change. None is taken from the request's own values.
- Who asks, roles, provenance and untrusted content have few values: they are all tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, PolicyRequest, Provenance
from mlflow_agent_plugin.trust.policy.conditions import Literal, Path, literal, raw_path, walk

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.policy.sources import Policy

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_DECIMAL_COMPARISONS = ("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual")
_SESSION = ("environment", "calls", "turn")
_MAX_LITERALS = 16


@dataclass(frozen=True)
class Variation:
    """A request with one fact changed.

    Attributes:
        text: The change in words: ``if amount were 50``.
        fact: Which fact; of several values of one fact that lead to the same answer, one is told.
        distance: How far the new value is from the old one.
        request: The changed request.
    """

    text: str
    fact: str
    distance: float
    request: PolicyRequest


def variations(
    request: PolicyRequest, policies: Iterable[Policy], roles: Iterable[str]
) -> Iterator[Variation]:
    """Yield the request with one fact changed.

    Args:
        request: The request.
        policies: Those whose scope covers its tool.
        roles: Roles the agent declares.
    """
    yield from _of_actor(request, roles)
    yield from _of_origins(request)
    yield from _of_compared_facts(request, policies)


def _of_actor(request: PolicyRequest, roles: Iterable[str]) -> Iterator[Variation]:
    actor = request.actor
    text = "if the actor were not verified" if actor.verified else "if the actor were verified"
    yield Variation(text, "verified", 0, _by(request, replace(actor, verified=not actor.verified)))
    for role in sorted(roles):
        has = role in actor.roles
        other = actor.roles - {role} if has else actor.roles | {role}
        word = "did not have" if has else "had"
        yield Variation(
            f"if the actor {word} the role {role}",
            f"role {role}",
            0,
            _by(request, replace(actor, roles=frozenset(other))),
        )


def _of_origins(request: PolicyRequest) -> Iterator[Variation]:
    for name, origin in sorted(request.provenance.items()):
        for other in (Provenance.USER, Provenance.UNTRUSTED):
            if other.value != origin:
                changed = {**request.provenance, name: other.value}
                text = f"if {name} came from {other.value}"
                yield Variation(text, text, 0, replace(request, provenance=changed))
    seen = request.session.get("untrusted_seen")
    if isinstance(seen, bool):
        word = "had not been" if seen else "had been"
        yield Variation(
            f"if untrusted content {word} seen in the session",
            "untrusted_seen",
            0,
            replace(request, session={**request.session, "untrusted_seen": not seen}),
        )


def _of_compared_facts(request: PolicyRequest, policies: Iterable[Policy]) -> Iterator[Variation]:
    found: dict[Path, set[Literal]] = {}
    for policy in policies:
        for condition in policy.ast.get("conditions", []):
            for path, value in _comparisons(condition["body"]):
                found.setdefault(path, set()).add(value)
    for path, literals in sorted(found.items()):
        change = _Change.of(request, path)
        if change is not None:
            for value in sorted(literals, key=str)[:_MAX_LITERALS]:
                yield from change.to(value)


def _comparisons(body: Any) -> Iterator[tuple[Path, Literal]]:
    """Yield (attribute, literal) for every comparison of the two in an expression."""
    for node in walk(body):
        if not isinstance(node, Mapping) or len(node) != 1:
            continue
        ((operator, operand),) = node.items()
        if operator in _COMPARISONS:
            sides = [operand["left"], operand["right"]]
        elif operator in _DECIMAL_COMPARISONS:
            sides = list(operand)
        elif operator == "contains" and "Set" in operand["left"]:
            path = raw_path(operand["right"])
            values = (literal(item) for item in operand["left"]["Set"])
            yield from ((path, item) for item in values if path is not None and item is not None)
            continue
        else:
            continue
        for one, other in (sides, sides[::-1]):
            path, value = raw_path(one), literal(other)
            if path is not None and value is not None:
                yield path, value


@dataclass(frozen=True)
class _Change:
    """A fact of a request that can be given another value."""

    request: PolicyRequest
    path: Path
    name: str
    now: Any

    @classmethod
    def of(cls, request: PolicyRequest, path: Path) -> _Change | None:
        """Return the fact at `path`, None if it is none that is tried here."""
        match path:
            case ("context", "input", *inner) if inner:
                now: Any = request.arguments
                for part in inner:
                    if not isinstance(now, Mapping) or part not in now:
                        return None
                    now = now[part]
                return cls(request, path, ".".join(inner), now)
            case ("context", "session", name) if name in _SESSION:
                return cls(request, path, f"session.{name}", request.session.get(name))
            case ("principal", "tenant") | ("context", "session", "tenant"):
                return cls(request, ("tenant",), "the actor's tenant", request.actor.tenant)
            case ("principal", "user"):
                return cls(request, ("user",), "the actor's user", request.actor.user)
        return None

    def to(self, value: Literal) -> Iterator[Variation]:
        """Yield the request with this fact at `value`, and beside it."""
        if isinstance(value, bool):
            if isinstance(self.now, bool) and self.now is not value:
                yield self._variation(value, f"if {self.name} were {str(value).lower()}", 0)
        elif isinstance(value, str):
            if not isinstance(self.now, str):
                return
            if self.now == value:
                yield self._variation(f"not {value}", f"if {self.name} were not {value!r}", 0)
            else:
                yield self._variation(value, f"if {self.name} were {value!r}", 0)
        elif isinstance(self.now, (int, float)) and not isinstance(self.now, bool):
            for near in (value, value - 1, value + 1):
                number = _number(near)
                if number != self.now:
                    text = f"if {self.name} were {number}"
                    yield self._variation(number, text, abs(number - self.now))

    def _variation(self, value: Any, text: str, distance: float) -> Variation:
        return Variation(text, self.name, distance, self._with(value))

    def _with(self, value: Any) -> PolicyRequest:
        request = self.request
        if self.path == ("tenant",):
            return _by(request, replace(request.actor, tenant=value))
        if self.path == ("user",):
            return _by(request, replace(request.actor, user=value))
        if self.path[1] == "session":
            return replace(request, session={**request.session, self.path[2]: value})
        return replace(request, arguments=_put(request.arguments, self.path[2:], value))


def _put(arguments: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    first, rest = path[0], path[1:]
    return {**arguments, first: _put(arguments[first], rest, value) if rest else value}


def _by(request: PolicyRequest, actor: Actor) -> PolicyRequest:
    # The session may repeat what is known of the actor; it must not contradict him.
    session = {
        name: value for name, value in request.session.items() if name not in ("verified", "tenant")
    }
    return replace(request, actor=actor, session=session)


def _number(value: int | Decimal) -> int | float:
    if isinstance(value, int):
        return value
    return int(value) if value == value.to_integral_value() else float(value)
