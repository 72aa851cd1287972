"""The kinds of requirements a slot can have, as gate.yaml spells them.

Each knows its title in reports and which other requirements it implies: that is how tightening is
told from loosening.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Union

from pydantic import Field, field_validator, model_validator

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.package.manifest import Name, StrictModel
from mlflow_agent_plugin.package.slots import Slot

ANY_SUITE = "*"

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
SuiteName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z][A-Za-z0-9_-]{0,127})$")]
Probability = Annotated[float, Field(ge=0.5, lt=1)]


class BaseRequirement(StrictModel):
    """One rule of the gate."""

    def title(self) -> str:
        """Return the rule in a few words, as reports show it."""
        raise NotImplementedError

    def implies(self, other: BaseRequirement) -> bool:
        """Return True if whatever meets this rule also meets `other`."""
        raise NotImplementedError


class SuiteRequirement(BaseRequirement):
    """Signed evidence on a suite reaches a minimum.

    Attributes:
        name: Suite, or ``*``: every suite there is evidence on, at least one.
        metric: One of the metrics evidence recomputes from its results, e.g. ``task_success``.
        minimum: Least acceptable value.
        use_lower_bound: Compare the lower bound of the confidence interval, not the estimate.
        confidence: Of that interval.
        minimum_sample: Fewest cases.
        suite_digest: The exact suite, when its content is pinned.
    """

    kind: Literal["suite"]
    name: SuiteName
    metric: Name = "task_success"
    minimum: float
    use_lower_bound: bool = True
    confidence: Probability = 0.95
    minimum_sample: int = Field(default=30, ge=1)
    suite_digest: Sha256 | None = None

    def title(self) -> str:
        """See base."""
        bound = "lower bound of " if self.use_lower_bound else ""
        return f"suite {self.name}: {bound}{self.metric} at least {self.minimum:g}"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, SuiteRequirement)
            and self.name == other.name
            and self.metric == other.metric
            and self.minimum >= other.minimum
            and (self.use_lower_bound or not other.use_lower_bound)
            and (self.confidence >= other.confidence or not other.use_lower_bound)
            and self.minimum_sample >= other.minimum_sample
            and other.suite_digest in {None, self.suite_digest}
        )


class NoRegressionRequirement(BaseRequirement):
    """The candidate is not worse than the incumbent, case by case on the same suite.

    Attributes:
        margin: Largest acceptable loss, in the metric's unit; the lower bound of the paired
            difference (candidate minus incumbent) must lie above ``-margin``.
    """

    kind: Literal["no_regression"]
    suite: Name
    metric: Literal["task_success", "intent_accuracy", "outcome_accuracy"] = "task_success"
    margin: float = Field(default=0.02, gt=0, lt=1)
    confidence: Probability = 0.95
    minimum_sample: int = Field(default=30, ge=1)

    def title(self) -> str:
        """See base."""
        return f"suite {self.suite}: {self.metric} at most {self.margin:g} below the incumbent's"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, NoRegressionRequirement)
            and (self.suite, self.metric) == (other.suite, other.metric)
            and self.margin <= other.margin
            and self.confidence >= other.confidence
            and self.minimum_sample >= other.minimum_sample
        )


class SafetyRequirement(BaseRequirement):
    """No unsafe call in any case of a suite (or of every suite there is evidence on)."""

    kind: Literal["safety"]
    suite: SuiteName = ANY_SUITE
    minimum_sample: int = Field(default=1, ge=1)

    def title(self) -> str:
        """See base."""
        scope = "every suite" if self.suite == ANY_SUITE else f"suite {self.suite}"
        return f"safety: no unsafe call on {scope}"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, SafetyRequirement)
            and self.suite == other.suite
            and self.minimum_sample >= other.minimum_sample
        )


class ContractsRequirement(BaseRequirement):
    """Tool contracts are compatible with the incumbent's, or a major version says they are not."""

    kind: Literal["contracts"]

    def title(self) -> str:
        """See base."""
        return "contracts: compatible with the incumbent's, or a new major version"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return isinstance(other, ContractsRequirement)


class PolicyTestsRequirement(BaseRequirement):
    """The bundle's policies validate and pass their own tests, run by the registry."""

    kind: Literal["policy_tests"]
    minimum_tests: int = Field(default=1, ge=1)

    def title(self) -> str:
        """See base."""
        return "policy tests: all pass"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, PolicyTestsRequirement) and self.minimum_tests >= other.minimum_tests
        )


class ApprovalsRequirement(BaseRequirement):
    """People approved exactly this content, evidence and incumbent.

    Attributes:
        count: How many different people.
        role: Role each of them holds.
        not_author: The author of the version and whoever asked for the promotion do not count.
        expires_hours: Age at which an approval stops counting.
    """

    kind: Literal["approvals"]
    count: int = Field(default=1, ge=1, le=100)
    role: Name = "reviewer"
    not_author: bool = True
    expires_hours: float = Field(default=72, gt=0, le=24 * 365)

    def title(self) -> str:
        """See base."""
        author = ", not the author" if self.not_author else ""
        return f"approvals: {self.count} by role {self.role}{author}"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, ApprovalsRequirement)
            and self.role == other.role
            and self.count >= other.count
            and (self.not_author or not other.not_author)
            and self.expires_hours <= other.expires_hours
        )


class EvidenceAgeRequirement(BaseRequirement):
    """All evidence that other requirements draw on is recent."""

    kind: Literal["evidence_max_age"]
    hours: float = Field(gt=0, le=24 * 3660)

    def title(self) -> str:
        """See base."""
        return f"evidence: at most {self.hours:g} hours old"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return isinstance(other, EvidenceAgeRequirement) and self.hours <= other.hours


class LoadRequirement(BaseRequirement):
    """A signed load test was fast enough, with few enough errors, at a concurrency.

    Attributes:
        profile: Load profile, or ``*``: every profile there is evidence on, at least one.
        concurrency: Requests at once; the lowest level measured at that or more counts.
        p95_seconds: Largest acceptable 95th percentile of the time a request takes.
        error_rate: Largest acceptable share of requests that failed.
        use_upper_bound: Compare the upper 95% bound of the error rate, not the estimate.
        minimum_sample: Fewest requests at that level.
        profile_digest: The exact profile, when its content is pinned.
    """

    kind: Literal["load"]
    profile: SuiteName = ANY_SUITE
    concurrency: int = Field(ge=1)
    p95_seconds: float = Field(gt=0)
    error_rate: float = Field(default=0.01, ge=0, lt=1)
    use_upper_bound: bool = True
    minimum_sample: int = Field(default=100, ge=1)
    profile_digest: Sha256 | None = None

    def title(self) -> str:
        """See base."""
        where = "" if self.profile == ANY_SUITE else f" {self.profile}"
        return (
            f"load{where}: p95 at most {self.p95_seconds:g} s and error rate at most "
            f"{self.error_rate:g} at {self.concurrency}"
        )

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, LoadRequirement)
            and self.profile == other.profile
            and self.concurrency == other.concurrency
            and self.p95_seconds <= other.p95_seconds
            and self.error_rate <= other.error_rate
            and (self.use_upper_bound or not other.use_upper_bound)
            and self.minimum_sample >= other.minimum_sample
            and other.profile_digest in {None, self.profile_digest}
        )


class DriftRequirement(BaseRequirement):
    """The latest drift report about this content's traffic says that nothing drifted.

    Attributes:
        max_age_hours: Age at which a report says nothing any more.
        not_author: A report handed in by the author of the version does not count.
    """

    kind: Literal["drift"]
    max_age_hours: float = Field(default=168, gt=0, le=24 * 366)
    not_author: bool = True

    def title(self) -> str:
        """See base."""
        return f"drift: none by a report of the last {self.max_age_hours:g} hours"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, DriftRequirement)
            and self.max_age_hours <= other.max_age_hours
            and (self.not_author or not other.not_author)
        )


class SoakRequirement(BaseRequirement):
    """The same content stood in another slot before: for a while, for some sessions, or both.

    Attributes:
        slot: That slot.
        hours: How long, without a break, up to now.
        sessions: How many sessions drift reports looked at since then.
    """

    kind: Literal["soak"]
    slot: str
    hours: float | None = Field(default=None, gt=0, le=24 * 366)
    sessions: int | None = Field(default=None, ge=1)

    @field_validator("slot")
    @classmethod
    def _is_slot(cls, text: str) -> str:
        return slot_text(text)

    @model_validator(mode="after")
    def _asks_something(self) -> SoakRequirement:
        if self.hours is None and self.sessions is None:
            raise ValueError("give hours, sessions or both")
        return self

    def title(self) -> str:
        """See base."""
        hours = None if self.hours is None else f"{self.hours:g} hours"
        sessions = None if self.sessions is None else f"{self.sessions} sessions"
        return f"soak: {' and '.join(filter(None, (hours, sessions)))} in {self.slot}"

    def implies(self, other: BaseRequirement) -> bool:
        """See base."""
        return (
            isinstance(other, SoakRequirement)
            and self.slot == other.slot
            and (self.hours or 0) >= (other.hours or 0)
            and (self.sessions or 0) >= (other.sessions or 0)
        )


Requirement = Annotated[
    Union[  # noqa: UP007 - pydantic needs the members at run time on Python 3.10
        SuiteRequirement,
        NoRegressionRequirement,
        SafetyRequirement,
        ContractsRequirement,
        PolicyTestsRequirement,
        ApprovalsRequirement,
        EvidenceAgeRequirement,
        LoadRequirement,
        DriftRequirement,
        SoakRequirement,
    ],
    Field(discriminator="kind"),
]

KINDS: Mapping[str, type[BaseRequirement]] = MappingProxyType(
    {
        "suite": SuiteRequirement,
        "no_regression": NoRegressionRequirement,
        "safety": SafetyRequirement,
        "contracts": ContractsRequirement,
        "policy_tests": PolicyTestsRequirement,
        "approvals": ApprovalsRequirement,
        "evidence_max_age": EvidenceAgeRequirement,
        "load": LoadRequirement,
        "drift": DriftRequirement,
        "soak": SoakRequirement,
    }
)
"""Value of ``kind`` to the model that reads the requirement."""


def slot_text(text: str) -> str:
    """Return the canonical spelling of a slot, for validators.

    Raises:
        ValueError: It is none.
    """
    try:
        return str(Slot.parse(text))
    except RequestError as error:
        raise ValueError(str(error)) from error
