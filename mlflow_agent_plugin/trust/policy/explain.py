"""Explain one decision: which policies matched, and what would change the answer.

Every change is tried by deciding again, with one fact changed, so an explanation never says more
than the engine would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Decision, DecisionValue, PolicyRequest
from mlflow_agent_plugin.trust.policy.variations import variations

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
            lines.append(
                "  no single change of actor, approval, provenance, session or an argument helps"
            )
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
        approved = engine.decide_approved(request, role=role, quorum=decision.quorum)
        who = f"a {role} approves"
        if decision.quorum > 1:
            who = f"{decision.quorum} different holders of {role} approve"
        changes.append(PolicyChange(f"if {who} this call", approved))
    changes += _changes(engine, request, decision)
    return PolicyExplanation(request, decision, tuple(policies), tuple(changes))


def _changes(
    engine: CedarPolicyEngine, request: PolicyRequest, decision: Decision
) -> list[PolicyChange]:
    """Try every variation; of the values of one fact that lead to one answer keep the nearest."""
    nearest: dict[tuple[str, DecisionValue], tuple[float, PolicyChange]] = {}
    policies = [engine.policies[name] for name in engine.policies_for(request.tool)]
    for tried in variations(request, policies, engine.sources.roles):
        other = engine.decide(tried.request)
        key = (tried.fact, other.value)
        if other.value is decision.value or other.errors:
            continue
        if key not in nearest or tried.distance < nearest[key][0]:
            nearest[key] = (tried.distance, PolicyChange(tried.text, other))
    return [change for _, change in nearest.values()]
