"""The policy engine: Cedar behind one small protocol.

Rules:
- `decide` never raises, and everything that goes wrong is a denial with `errors`: an unknown tool,
  a missing fact, a value of the wrong type, an error inside a policy, a panic of the engine, an
  answer that took too long. (A decision always ends, since Cedar has no loops; it cannot be broken
  off before.)
- No policy, no permit: deny. A forbid always wins over any permit.
- An actor nobody verified has only the permits that name such actors (`Policy.names_unverified`):
  a permit somebody wrote with signed-in users in mind lets in nobody who merely claims to be one.
- Every decision is made with the request schema. Without it Cedar skips a forbid that errors, and
  the answer would be an allow.
- `needs_approval` is the answer exactly when the approval rules are the only thing in the way: the
  request is decided again with ``approved`` true, and that must be an allow. So nobody is asked
  about a call that would be denied anyway.
- ``approved``, ``verified`` and ``tenant`` are never taken from the caller's session facts.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlflow_agent_plugin.entities import Decision, DecisionValue, PolicyRequest, sha256_of_json
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.trust.policy.lint import lint
from mlflow_agent_plugin.trust.policy.schema import (
    ACTION_TYPE,
    AGENT_TYPE,
    ROLE_TYPE,
    SESSION_TYPES,
    USER_TYPE,
    FactError,
    ToolFacts,
    cedar_schema,
    tool_facts,
)
from mlflow_agent_plugin.trust.policy.slices import PolicySlice, make_slice, policy_set_of
from mlflow_agent_plugin.trust.policy.sources import Policy, PolicySources, parse_policies

if TYPE_CHECKING:
    import cedarpy

    from mlflow_agent_plugin.package.bundle import Bundle
    from mlflow_agent_plugin.trust.policy.explain import PolicyExplanation

DECISION_TIMEOUT_SECONDS = 2.0
"""A decision that took longer counts as a failure; a usual one takes 0.2 ms."""

_RULES = 2
"""Edition of the engine's own rules, part of its digest. 2: permits have to name the unverified."""

_CACHED_ACTORS = 1024
_CALLER_FACTS = ("environment", "calls", "turn", "untrusted_seen", "now")
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "String": lambda value: isinstance(value, str),
    "Boolean": lambda value: isinstance(value, bool),
    "Long": lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    ),
}
_SESSION_CHECKS = {name: _CHECKS[kind] for name, kind in SESSION_TYPES.items()}


class PolicyEngine(Protocol):
    """Decides about one tool call.

    Attributes:
        digest: Changes whenever any decision could; approvals are bound to it.
    """

    digest: str

    def decide(self, request: PolicyRequest) -> Decision:
        """Decide about `request`; never raises, and a failure is a denial."""
        ...

    def decide_approved(self, request: PolicyRequest, *, role: str, quorum: int = 1) -> Decision:
        """Decide about a call that `quorum` holders of `role` approved, as it is about to run.

        Allow only if nothing else is in the way by now; never raises.
        """
        ...


class _Verdict(NamedTuple):
    """One run of Cedar: its answer, the ids of the determining policies, its errors."""

    answer: str
    policy_ids: tuple[str, ...]
    errors: tuple[str, ...]


class CedarPolicyEngine:
    """Decides with the Cedar policies of one agent.

    Thread-safe: nothing changes after construction but a bounded cache of actors. Pickling keeps
    the policies' text and builds the engine again on the other side, because Cedar's own handles
    cannot be pickled.

    Args:
        sources: Policies, roles and contracts.
        timeout_seconds: A decision that took longer is a denial.

    Raises:
        PolicyError: The policies do not parse, validate against the schema or pass the linter.

    Attributes:
        digest: ``sha256:…`` over the policies component of the bundle and the generated schema.
        policies: The parsed policies by id.
    """

    def __init__(
        self, sources: PolicySources, *, timeout_seconds: float = DECISION_TIMEOUT_SECONDS
    ) -> None:
        import cedarpy  # noqa: PLC0415 - import cost

        self.sources = sources
        self._timeout_seconds = timeout_seconds
        self.facts = {name: tool_facts(item) for name, item in sources.contracts.items()}
        self.schema = cedar_schema(sources.agent, self.facts, sources.roles)
        parsed = parse_policies(sources)
        self.warnings = tuple(lint(sources, parsed, self.facts, self.schema))
        self.policies: Mapping[str, Policy] = {policy.policy_id: policy for policy in parsed}
        self.digest = sha256_of_json(
            {"policies": sources.content_digest, "schema": self.schema, "rules": _RULES}
        )
        self._cedar = cedarpy
        self._schema = cedarpy.Schema.from_json_str(json.dumps(self.schema))
        self._usable = frozenset(sources.usable_tools)
        self._slices = {
            verified: {
                name: self._slice(tool, verified=verified) for name, tool in self.facts.items()
            }
            for verified in (True, False)
        }
        self._principal = lru_cache(maxsize=_CACHED_ACTORS)(self._make_principal)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> CedarPolicyEngine:
        """Build the engine of `bundle`; its policy tests are not run (see `check_policies`).

        Raises:
            PolicyError: As the constructor, or a policy file is missing or unreadable.
            IntegrityError: A policy file changed after the bundle's digest was computed.
        """
        return cls(PolicySources.from_bundle(bundle))

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from text in the other process."""
        return (partial(type(self), timeout_seconds=self._timeout_seconds), (self.sources,))

    def decide(self, request: PolicyRequest) -> Decision:
        """Decide about `request`.

        Never raises: any failure is a denial whose `errors` say what failed.
        """
        return self._guarded(lambda: self._decide(request))

    def decide_approved(self, request: PolicyRequest, *, role: str, quorum: int = 1) -> Decision:
        """Decide about a call that `quorum` holders of `role` approved, when it is to run.

        Allow if the request is permitted by now without an approval, or if an approval by that many
        holders of `role` is still enough for it; otherwise what `decide` says. The caller has
        checked that the approval exists, is valid and is bound to this very action. Never raises.
        """

        def redecide() -> Decision:
            decision = self._decide(request)
            if decision.value is not DecisionValue.NEEDS_APPROVAL:
                return decision
            if decision.approver_role != role or decision.quorum > quorum:
                return decision
            permits = self._evaluate(request, approved=True).policy_ids
            return Decision(
                DecisionValue.ALLOW,
                tuple(sorted({*decision.policy_ids, *permits})),
                f"Approved by {role}, permitted by {', '.join(permits)}.",
            )

        return self._guarded(redecide)

    def matching(self, request: PolicyRequest) -> frozenset[str]:
        """Return the ids of all policies that match, each looked at alone; never raises.

        More than the determining policies of a decision: a permit matches whether or not a forbid
        outvotes it.
        """
        verified = request.actor.verified is True
        return frozenset(
            name
            for name in self.policies_for(request.tool, verified=verified)
            if self._matches_alone(request, name, self._slices[verified][request.tool])
        )

    def policies_for(self, tool: str, *, verified: bool = True) -> tuple[str, ...]:
        """Return the ids of the policies whose scope covers `tool`, sorted.

        Args:
            tool: Its name.
            verified: False for those that count for an actor nobody verified.
        """
        chosen = self._slices[verified].get(tool) if isinstance(tool, str) else None
        return () if chosen is None else chosen.policy_ids

    def _matches_alone(self, request: PolicyRequest, policy_id: str, chosen: PolicySlice) -> bool:
        alone = policy_set_of({policy_id: self.policies[policy_id]})
        try:
            verdict = self._evaluate(
                request, approved=False, among=replace(chosen, policy_set=alone)
            )
        except FactError:
            return False
        return policy_id in verdict.policy_ids

    def explain(self, request: PolicyRequest) -> PolicyExplanation:
        """Say which policies matched and what would change the answer; never raises."""
        from mlflow_agent_plugin.trust.policy.explain import explain  # noqa: PLC0415 - rarely used

        return explain(self, request)

    def _guarded(self, decide: Callable[[], Decision]) -> Decision:
        started = time.perf_counter()
        try:
            decision = decide()
        except FactError as error:
            return _failed(str(error))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic inside the engine is no Exception
            # the message of a foreign error may hold values of the call: only its type is told
            return _failed(f"the policy engine failed with {type(error).__name__}")
        if time.perf_counter() - started > self._timeout_seconds:
            return _failed(f"the decision took longer than {self._timeout_seconds:g} seconds")
        return decision

    def _decide(self, request: PolicyRequest) -> Decision:
        first = self._evaluate(request, approved=False)
        if first.errors:
            return Decision(
                DecisionValue.DENY,
                first.policy_ids,
                "The policies could not be evaluated for this call, so it is denied.",
                errors=first.errors,
            )
        if first.answer == "Allow":
            reason = f"Permitted by {', '.join(first.policy_ids)}."
            return Decision(DecisionValue.ALLOW, first.policy_ids, reason)
        if not first.policy_ids:
            return Decision(DecisionValue.DENY, reason=self._nobody_permits(request))
        roles = {self.policies[name].approver_role for name in first.policy_ids}
        if None in roles:
            hard = [name for name in first.policy_ids if not self.policies[name].approver_role]
            return Decision(DecisionValue.DENY, first.policy_ids, self._reason("Forbidden", hard))
        return self._needs_approval(request, first, {role for role in roles if role})

    def _needs_approval(self, request: PolicyRequest, first: _Verdict, roles: set[str]) -> Decision:
        second = self._evaluate(request, approved=True)
        if second.errors:
            return Decision(
                DecisionValue.DENY,
                first.policy_ids,
                "The policies could not be evaluated for this call, so it is denied.",
                errors=second.errors,
            )
        if second.answer != "Allow":
            # an approval would not help, so the approval rules are not what stands in the way
            return Decision(
                DecisionValue.DENY,
                second.policy_ids,
                f"No policy permits {request.tool} for this request, approved or not.",
            )
        if len(roles) > 1:
            return Decision(
                DecisionValue.DENY,
                first.policy_ids,
                f"Approvals by {' and '.join(sorted(roles))} would be needed at once, and one "
                "approval has one role.",
            )
        (role,) = roles
        quorum = max(self.policies[name].quorum for name in first.policy_ids)
        who = role if quorum == 1 else f"{quorum} different holders of {role}"
        reason = self._reason(f"Needs an approval by {who}", first.policy_ids)
        return Decision(DecisionValue.NEEDS_APPROVAL, first.policy_ids, reason, role, quorum)

    def _evaluate(
        self, request: PolicyRequest, *, approved: bool, among: PolicySlice | None = None
    ) -> _Verdict:
        actor = request.actor
        if not isinstance(actor.verified, bool):
            raise FactError("actor.verified is not true or false")
        chosen = among or self._slices[actor.verified].get(request.tool)
        if chosen is None:
            raise FactError("the tool has no contract in this agent")
        if request.tool not in self._usable:
            raise FactError("the manifest does not let this agent use the tool")
        if request.agent != self.sources.agent:
            raise FactError("the request is about another agent")
        if not chosen.policy_ids:
            return _Verdict("Deny", (), ())
        roles = frozenset(actor.roles).intersection(self.sources.roles)
        facts = {
            "input": chosen.facts.input.convert(request.arguments),
            "session": self._session(request, approved=approved),
            "provenance": chosen.facts.provenance(request.arguments, request.provenance),
        }
        result = self._cedar.is_authorized(
            {
                "principal": {"type": USER_TYPE, "id": actor.user},
                "action": {"type": ACTION_TYPE, "id": request.tool},
                "resource": {"type": AGENT_TYPE, "id": self.sources.agent},
                "context": chosen.context(facts),
            },
            chosen.policy_set,
            self._principal(actor.user, actor.tenant, roles, verified=actor.verified),
            chosen.schema,
        )
        errors = tuple(_without_values(text) for text in result.diagnostics.errors)
        answer = result.decision.value
        if answer not in {"Allow", "Deny"} and not errors:
            errors = ("the policy engine gave no decision",)
        return _Verdict(answer, tuple(sorted(result.diagnostics.reasons)), errors)

    def _session(self, request: PolicyRequest, *, approved: bool) -> dict[str, Any]:
        facts = dict(request.session)
        if "approved" in facts:
            raise FactError("session fact 'approved' is not the caller's to set")
        for name, value in (("verified", request.actor.verified), ("tenant", request.actor.tenant)):
            if name in facts and facts[name] != value:
                raise FactError(f"session fact {name!r} contradicts the actor")
            facts[name] = value
        for name in _CALLER_FACTS:
            if name not in facts:
                raise FactError(f"session fact {name!r} is missing")
        facts["approved"] = approved
        for name, value in facts.items():
            check = _SESSION_CHECKS.get(name)
            if check is None or not check(value):
                raise FactError(f"session fact {str(name)[:64]!r} is unknown or not of its type")
        return facts

    def _make_principal(
        self, user: str, tenant: str, roles: frozenset[str], *, verified: bool
    ) -> cedarpy.Entities:
        entity = {
            "uid": {"type": USER_TYPE, "id": user},
            "attrs": {"user": user, "tenant": tenant, "verified": verified},
            "parents": [{"type": ROLE_TYPE, "id": role} for role in sorted(roles)],
        }
        return self._cedar.Entities.from_json_str(json.dumps([entity]), self._schema)

    def _slice(self, facts: ToolFacts, *, verified: bool) -> PolicySlice:
        policies = {
            name: policy
            for name, policy in self.policies.items()
            if verified or policy.names_unverified
        }
        try:
            return make_slice(facts, policies, self.schema)
        except (ValueError, RecursionError) as error:
            raise PolicyError(
                f"the policies of tool {facts.tool!r} cannot be loaded: {error}",
                where=self.sources.folder,
            ) from error

    def _nobody_permits(self, request: PolicyRequest) -> str:
        text = f"No policy permits {request.tool} for this request."
        if request.actor.verified:
            return text
        others = [
            name
            for name in self.policies_for(request.tool)
            if not self.policies[name].names_unverified
        ]
        if not others:
            return text
        return f"{text} {', '.join(others)} count for verified actors only."

    def _reason(self, verb: str, policy_ids: list[str] | tuple[str, ...]) -> str:
        told = [
            self.policies[name].annotations["reason"].rstrip(".")
            for name in policy_ids
            if self.policies[name].annotations.get("reason")
        ]
        text = f"{verb} ({', '.join(policy_ids)})"
        return f"{text}: {'; '.join(told)}." if told else f"{text}."


def _failed(text: str) -> Decision:
    return Decision(
        DecisionValue.DENY,
        reason=f"The policies could not be evaluated for this call, so it is denied: {text}.",
        errors=(text,),
    )


def _without_values(text: str) -> str:
    """Cut values out of one of Cedar's messages: it quotes whole contexts."""
    return re.sub(r"`[^`]{65,}`|`[^`]*[{\"][^`]*`", "`…`", text)[:500]
