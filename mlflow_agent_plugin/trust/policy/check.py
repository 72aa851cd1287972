"""The one check an agent's policies must pass before it is logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.trust.policy.engine import CedarPolicyEngine
from mlflow_agent_plugin.trust.policy.lint import refuse
from mlflow_agent_plugin.trust.policy.policy_tests import (
    PolicyTestResult,
    problems_of,
    run_policy_tests,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.bundle import Bundle


@dataclass(frozen=True)
class PolicyCheck:
    """Result of a check that found no problem.

    Attributes:
        digest: Digest of the policy engine.
        policies: Number of policies.
        tests: The policy tests that were run; all passed.
        warnings: What deserves a look but is no error.
    """

    digest: str
    policies: int
    tests: tuple[PolicyTestResult, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.policies} policies, {len(self.tests)} policy tests passed, "
            f"{len(self.warnings)} warnings"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "digest": self.digest,
            "policies": self.policies,
            "tests": [test.to_dict() for test in self.tests],
            "warnings": list(self.warnings),
        }


def check_policies(bundle: Bundle) -> PolicyCheck:
    """Validate and lint the policies of `bundle` and run their tests.

    Returns:
        What was checked, and warnings: a usable tool that no permit covers, an argument policies
        cannot see, a policy that no test determines.

    Raises:
        PolicyError: Anything is wrong, including a missing or failing policy test. One error names
            the first problem with file, line and policy, and lists the others.
    """
    engine = CedarPolicyEngine.from_bundle(bundle)
    results = run_policy_tests(bundle, engine=engine)
    refuse(problems_of(results))
    determined = {name for result in results for name in result.decision.policy_ids}
    untested = [
        f"{engine.sources.where(policy.file, policy.line)}: policy {name!r} determines no policy "
        "test"
        for name, policy in engine.policies.items()
        if name not in determined
    ]
    return PolicyCheck(
        engine.digest, len(engine.policies), tuple(results), (*engine.warnings, *untested)
    )
