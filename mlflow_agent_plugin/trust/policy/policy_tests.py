"""Policy tests: request → expected decision and policy ids, in ``policies/tests.yaml``.

They are part of the bundle and run before it is logged, so a policy that says something else than
its author meant never becomes a version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mlflow_agent_plugin.entities import (
    MAX_QUORUM,
    Actor,
    Decision,
    DecisionValue,
    PolicyRequest,
    Provenance,
)
from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.package.manifest import Name, StrictModel
from mlflow_agent_plugin.trust.policy.lint import Problem
from mlflow_agent_plugin.trust.policy.sources import TESTS_FILE, PolicySources, read_document

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.bundle import Bundle
    from mlflow_agent_plugin.trust.policy.engine import CedarPolicyEngine

DEFAULT_NOW = 1_767_225_600
"""2026-01-01 00:00 UTC: a fixed clock, so that a policy test means the same every day."""


class TestActor(StrictModel):
    """Who asks; what is left out comes from the defaults."""

    __test__ = False  # not a test class, whatever its name

    user: str | None = None
    tenant: str | None = None
    roles: list[str] | None = None
    verified: bool | None = None


class TestSession(StrictModel):
    """Session facts; what is left out comes from the defaults."""

    __test__ = False

    environment: str | None = None
    calls: int | None = Field(default=None, ge=0)
    turn: int | None = Field(default=None, ge=0)
    untrusted_seen: bool | None = None
    now: int | None = Field(default=None, ge=0, description="Unix seconds")


class TestDefaults(StrictModel):
    """What every case starts from."""

    __test__ = False

    actor: TestActor = TestActor()
    session: TestSession = TestSession()
    provenance: Provenance = Provenance.USER


class PolicyTestCase(StrictModel):
    """One request and the answer its author expects.

    Attributes:
        policies: Ids of exactly the determining policies; empty for "nothing permits it".
        role: Who must approve, if `expect` is needs_approval and it matters.
        quorum: How many of them, likewise.
    """

    name: str = Field(min_length=1)
    tool: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    actor: TestActor = TestActor()
    session: TestSession = TestSession()
    provenance: dict[str, Provenance] = Field(default_factory=dict)
    expect: DecisionValue
    policies: list[str]
    role: str | None = None
    quorum: int | None = Field(default=None, ge=1, le=MAX_QUORUM)

    @model_validator(mode="after")
    def _role_needs_approval(self) -> PolicyTestCase:
        for name in ("role", "quorum"):
            if getattr(self, name) is None or self.expect is DecisionValue.NEEDS_APPROVAL:
                continue
            raise ValueError(f"{name} goes with `expect: needs_approval` only")
        return self


class PolicyTestFile(StrictModel):
    """The whole of ``tests.yaml``."""

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    defaults: TestDefaults = TestDefaults()
    cases: list[PolicyTestCase] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> PolicyTestFile:
        names = [case.name for case in self.cases]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cases are named {twice[0]!r}")
        return self


@dataclass(frozen=True)
class PolicyTestResult:
    """One policy test after it ran.

    Attributes:
        where: File and line of the case.
        failure: What differs from the expectation, None if nothing does.
    """

    name: str
    where: str
    request: PolicyRequest
    expected: DecisionValue
    decision: Decision
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the decision was the expected one."""
        return self.failure is None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "name": self.name,
            "where": self.where,
            "tool": self.request.tool,
            "expected": self.expected.value,
            "decision": self.decision.to_dict(),
            "passed": self.passed,
            "failure": self.failure,
        }


def run_policy_tests(
    bundle: Bundle, *, engine: CedarPolicyEngine | None = None
) -> list[PolicyTestResult]:
    """Run the policy tests of `bundle`, in file order.

    Args:
        bundle: The agent.
        engine: Its engine, if there is one already.

    Raises:
        PolicyError: ``tests.yaml`` is missing or malformed, or the policies themselves are wrong.
    """
    if engine is None:
        from mlflow_agent_plugin.trust.policy.engine import CedarPolicyEngine  # noqa: PLC0415

        engine = CedarPolicyEngine.from_bundle(bundle)
    return run_cases(engine)


def run_cases(engine: CedarPolicyEngine) -> list[PolicyTestResult]:
    """Run the policy tests that came with `engine`; raises as `run_policy_tests`."""
    sources = engine.sources
    where = sources.where(TESTS_FILE)
    if sources.tests is None:
        if not sources.usable_tools:
            return []
        raise PolicyError(
            "is missing: every agent must test its policies",
            where=where,
            hint="Write it as docs/reference/policy-tests.md says, one case per policy at least.",
        )
    tests, document = read_document(sources.tests, PolicyTestFile, name=where)
    return [
        _run(engine, tests.defaults, case, f"{where}:{document.lines['cases', at]}")
        for at, case in enumerate(tests.cases)
    ]


def problems_of(results: Sequence[PolicyTestResult]) -> list[Problem]:
    """Return a problem for every failed test."""
    return [
        Problem(
            result.where,
            f"policy test {result.name!r} failed: {result.failure}",
            "Fix the policy, or the test if the expectation is wrong.",
        )
        for result in results
        if result.failure is not None
    ]


def _run(
    engine: CedarPolicyEngine, defaults: TestDefaults, case: PolicyTestCase, where: str
) -> PolicyTestResult:
    request = _request(engine.sources.agent, defaults, case)
    decision = engine.decide(request)
    failure = _misfit(engine.sources, case) or _difference(case, decision)
    return PolicyTestResult(case.name, where, request, case.expect, decision, failure)


def _request(agent: str, defaults: TestDefaults, case: PolicyTestCase) -> PolicyRequest:
    actor = {
        "user": "tester",
        "tenant": "default",
        "roles": [],
        "verified": True,
        **_given(defaults.actor),
        **_given(case.actor),
    }
    session = {
        "environment": "production",
        "calls": 0,
        "turn": 1,
        "untrusted_seen": False,
        "now": DEFAULT_NOW,
        **_given(defaults.session),
        **_given(case.session),
    }
    origins = {name: case.provenance.get(name, defaults.provenance) for name in case.arguments}
    return PolicyRequest(
        actor=Actor(
            user=actor["user"],
            tenant=actor["tenant"],
            roles=frozenset(actor["roles"]),
            verified=actor["verified"],
        ),
        agent=agent,
        tool=case.tool,
        arguments=case.arguments,
        session=session,
        provenance={name: origin.value for name, origin in origins.items()},
    )


def _given(model: StrictModel) -> dict[str, Any]:
    return model.model_dump(exclude_none=True)


def _misfit(sources: PolicySources, case: PolicyTestCase) -> str | None:
    """Say why a case tests nothing: a request that the gateway would never pass on."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - import cost

    if case.tool not in sources.contracts:
        return f"the agent has no tool {case.tool!r}"
    unknown = sorted(set(case.provenance) - set(case.arguments))
    if unknown:
        return f"provenance names {unknown[0]!r}, which is not among the arguments"
    roles = sorted(set(case.actor.roles or []) - set(sources.roles))
    if roles:
        return f"actor has the role {roles[0]!r}, which roles.yaml does not declare"
    for error in Draft202012Validator(sources.contracts[case.tool].input).iter_errors(
        case.arguments
    ):
        place = ".".join(str(part) for part in error.absolute_path) or "arguments"
        return f"its arguments do not fit the tool's contract: {place}: {error.message}"
    return None


def _difference(case: PolicyTestCase, decision: Decision) -> str | None:
    if decision.value is not case.expect:
        detail = "; ".join(decision.errors) or decision.reason
        return f"expected {case.expect.value}, got {decision.value.value} ({detail})"
    if sorted(case.policies) != list(decision.policy_ids):
        return (
            f"expected {case.expect.value} by {_names(case.policies)}, "
            f"got it by {_names(decision.policy_ids)}"
        )
    if case.role is not None and case.role != decision.approver_role:
        return f"expected an approval by {case.role}, got one by {decision.approver_role}"
    if case.quorum is not None and case.quorum != decision.quorum:
        return f"expected an approval by {case.quorum} people, got one by {decision.quorum}"
    return None


def _names(policy_ids: Sequence[str]) -> str:
    return ", ".join(sorted(policy_ids)) or "no policy"
