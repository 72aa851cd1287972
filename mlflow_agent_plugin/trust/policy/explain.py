"""Explain one decision: which policies matched, and what would change the answer.

Every change is tried by deciding again, with one fact changed, so an explanation never says more
than the engine would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Decision, DecisionValue, PolicyRequest, Provenance

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.policy.engine import CedarPolicyEngine


@dataclass(frozen=True)
class ExplainedPolicy:
    """One policy whose scope covers the tool.

    Attributes:
        where: ``permit.cedar:12``: file in the policy folder, and line.
        matched: Whether it matches the request, taken alone.
        decides: Whether it determines the decision.
    """

    policy_id: str
    effect: str
    where: str
    text: str
    matched: bool
    decides: bool

    def describe(self) -> str:
        """Say in a word or two what part it had."""
        if self.decides:
            return "decides"
        return "matches" if self.matched else "does not match"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "policy_id": self.policy_id,
            "effect": self.effect,
            "where": self.where,
            "text": self.text,
            "matched": self.matched,
            "decides": self.decides,
        }


@dataclass(frozen=True)
class PolicyChange:
    """One changed fact and the other answer it leads to."""

    change: str
    decision: Decision

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"change": self.change, "decision": self.decision.to_dict()}


@dataclass(frozen=True)
class PolicyExplanation:
    """A decision, the policies that could apply, and what would change it.

    Attributes:
        decision: What the engine decides about the request as it is.
        policies: Every policy whose scope covers the tool; the determining ones first.
        changes: Single changes that lead to another answer; empty if none of those tried does.
    """

    request: PolicyRequest
    decision: Decision
    policies: tuple[ExplainedPolicy, ...]
    changes: tuple[PolicyChange, ...]

    def __str__(self) -> str:
        return self.to_text()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "tool": self.request.tool,
            "actor": self.request.actor.to_dict(),
            "decision": self.decision.to_dict(),
            "policies": [policy.to_dict() for policy in self.policies],
            "changes": [change.to_dict() for change in self.changes],
        }

    def to_text(self) -> str:
        """Return a few lines for a terminal."""
        lines = [f"{self.request.tool}: {self.decision.value.value}. {self.decision.reason}"]
        lines += [f"  error: {error}" for error in self.decision.errors]
        for policy in self.policies:
            mark = policy.describe()
            lines.append(f"  {policy.effect} {policy.policy_id} ({policy.where}): {mark}")
        for change in self.changes:
            lines.append(f"  {change.change} -> {change.decision.value.value}")
        if not self.changes:
            lines.append("  no single change of actor, approval, provenance or session helps")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(p.effect)}</td><td>{escape(p.policy_id)}</td>"
            f"<td>{escape(p.where)}</td><td>{p.describe()}</td></tr>"
            for p in self.policies
        )
        changes = "".join(
            f"<li>{escape(c.change)} → <b>{escape(c.decision.value.value)}</b></li>"
            for c in self.changes
        )
        return (
            f"<p><b>{escape(self.request.tool)}: {escape(self.decision.value.value)}</b><br>"
            f"{escape(self.decision.reason)}</p>"
            "<table><tr><th>effect</th><th>policy</th><th>where</th><th>part</th></tr>"
            f"{rows}</table><p>What would change it:</p><ul>{changes or '<li>nothing tried</li>'}"
            "</ul>"
        )


def explain(engine: CedarPolicyEngine, request: PolicyRequest) -> PolicyExplanation:
    """Explain what `engine` decides about `request`; never raises, as `decide`."""
    decision = engine.decide(request)
    determining, matching = set(decision.policy_ids), engine.matching(request)
    policies = [
        ExplainedPolicy(
            name,
            engine.policies[name].effect,
            f"{engine.policies[name].file}:{engine.policies[name].line}",
            engine.policies[name].text,
            name in matching,
            name in determining,
        )
        for name in engine.policies_for(request.tool)
    ]
    policies.sort(key=lambda policy: (not policy.decides, not policy.matched))
    changes = []
    if decision.value is DecisionValue.NEEDS_APPROVAL and decision.approver_role is not None:
        role = decision.approver_role
        approved = engine.decide_approved(request, role=role)
        changes.append(PolicyChange(f"if a {role} approves this call", approved))
    for text, changed in _variations(engine, request):
        other = engine.decide(changed)
        if other.value is not decision.value:
            changes.append(PolicyChange(text, other))
    return PolicyExplanation(request, decision, tuple(policies), tuple(changes))


def _variations(
    engine: CedarPolicyEngine, request: PolicyRequest
) -> Iterator[tuple[str, PolicyRequest]]:
    """Yield the request with one fact changed, and that change in words."""
    actor, session = request.actor, dict(request.session)
    session.pop("verified", None)
    flipped = replace(actor, verified=not actor.verified)
    text = "if the actor were not verified" if actor.verified else "if the actor were verified"
    yield text, replace(request, actor=flipped, session=session)
    for role in sorted(engine.sources.roles):
        has = role in actor.roles
        roles = actor.roles - {role} if has else actor.roles | {role}
        word = "did not have" if has else "had"
        yield (
            f"if the actor {word} the role {role}",
            replace(request, actor=replace(actor, roles=frozenset(roles))),
        )
    for name, origin in sorted(request.provenance.items()):
        for other in Provenance:
            if other.value != origin and other in {Provenance.USER, Provenance.UNTRUSTED}:
                changed = {**request.provenance, name: other.value}
                yield f"if {name} came from {other.value}", replace(request, provenance=changed)
    if isinstance(session.get("untrusted_seen"), bool):
        seen = session["untrusted_seen"]
        word = "had not been" if seen else "had been"
        yield (
            f"if untrusted content {word} seen in the session",
            replace(request, session={**request.session, "untrusted_seen": not seen}),
        )
