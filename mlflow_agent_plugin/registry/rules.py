"""Gate rules: what a version must have before a protected slot may point to it.

Rules:
- ``gate.yaml`` lists, per protected slot, requirements that must ALL be met.
- A slot without requirements is malformed: nothing would be checked, so it reads as a mistake.
- The rules that count are those stored with the registered model on the server. A candidate's own
  ``gate.yaml`` adds its requirements to them for that candidate; it takes none away.
- Rules B are as tight as rules A when every requirement of A is implied by one of B on the same
  slot, and B trusts nobody A does not trust. Anything else loosens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import ConfigDict, Field, field_validator

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import AgentError, BundleError, RequestError
from mlflow_agent_plugin.package.manifest import Name, StrictModel
from mlflow_agent_plugin.package.reading import YamlDocument, parse_yaml, validate_document
from mlflow_agent_plugin.registry.slots import Slot, fold

GATE_FILE = "gate.yaml"
ANY_SUITE = "*"

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
SuiteName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z][A-Za-z0-9_-]{0,127})$")]
Probability = Annotated[float, Field(ge=0.5, lt=1)]


class _Requirement(StrictModel):
    """One rule of the gate."""

    def title(self) -> str:
        """Return the rule in a few words, as reports show it."""
        raise NotImplementedError

    def implies(self, other: _Requirement) -> bool:
        """Return True if whatever meets this rule also meets `other`."""
        raise NotImplementedError


class SuiteRequirement(_Requirement):
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

    def implies(self, other: _Requirement) -> bool:
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


class NoRegressionRequirement(_Requirement):
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
        return (
            f"suite {self.suite}: {self.metric} at most {self.margin:g} below the incumbent's"
        )

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return (
            isinstance(other, NoRegressionRequirement)
            and (self.suite, self.metric) == (other.suite, other.metric)
            and self.margin <= other.margin
            and self.confidence >= other.confidence
            and self.minimum_sample >= other.minimum_sample
        )


class SafetyRequirement(_Requirement):
    """No unsafe call in any case of a suite (or of every suite there is evidence on)."""

    kind: Literal["safety"]
    suite: SuiteName = ANY_SUITE
    minimum_sample: int = Field(default=1, ge=1)

    def title(self) -> str:
        """See base."""
        scope = "every suite" if self.suite == ANY_SUITE else f"suite {self.suite}"
        return f"safety: no unsafe call on {scope}"

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return (
            isinstance(other, SafetyRequirement)
            and self.suite == other.suite
            and self.minimum_sample >= other.minimum_sample
        )


class ContractsRequirement(_Requirement):
    """Tool contracts are compatible with the incumbent's, or a major version says they are not."""

    kind: Literal["contracts"]

    def title(self) -> str:
        """See base."""
        return "contracts: compatible with the incumbent's, or a new major version"

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return isinstance(other, ContractsRequirement)


class PolicyTestsRequirement(_Requirement):
    """The bundle's policies validate and pass their own tests, run by the registry."""

    kind: Literal["policy_tests"]
    minimum_tests: int = Field(default=1, ge=1)

    def title(self) -> str:
        """See base."""
        return "policy tests: all pass"

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return (
            isinstance(other, PolicyTestsRequirement)
            and self.minimum_tests >= other.minimum_tests
        )


class ApprovalsRequirement(_Requirement):
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

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return (
            isinstance(other, ApprovalsRequirement)
            and self.role == other.role
            and self.count >= other.count
            and (self.not_author or not other.not_author)
            and self.expires_hours <= other.expires_hours
        )


class EvidenceAgeRequirement(_Requirement):
    """All evidence that other requirements draw on is recent."""

    kind: Literal["evidence_max_age"]
    hours: float = Field(gt=0, le=24 * 3660)

    def title(self) -> str:
        """See base."""
        return f"evidence: at most {self.hours:g} hours old"

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return isinstance(other, EvidenceAgeRequirement) and self.hours <= other.hours


class SoakRequirement(_Requirement):
    """The same content stood in another slot for a while before."""

    kind: Literal["soak"]
    slot: str
    hours: float = Field(gt=0, le=24 * 366)

    @field_validator("slot")
    @classmethod
    def _is_slot(cls, text: str) -> str:
        return _slot_text(text)

    def title(self) -> str:
        """See base."""
        return f"soak: {self.hours:g} hours in {self.slot}"

    def implies(self, other: _Requirement) -> bool:
        """See base."""
        return (
            isinstance(other, SoakRequirement)
            and self.slot == other.slot
            and self.hours >= other.hours
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
        SoakRequirement,
    ],
    Field(discriminator="kind"),
]

KINDS: Mapping[str, type[_Requirement]] = MappingProxyType(
    {
        "suite": SuiteRequirement,
        "no_regression": NoRegressionRequirement,
        "safety": SafetyRequirement,
        "contracts": ContractsRequirement,
        "policy_tests": PolicyTestsRequirement,
        "approvals": ApprovalsRequirement,
        "evidence_max_age": EvidenceAgeRequirement,
        "soak": SoakRequirement,
    }
)
"""Value of ``kind`` to the model that reads the requirement."""


class GateRules(StrictModel):
    """The whole of ``gate.yaml``.

    Attributes:
        protected: Slot to its requirements.
        reviewer_role: Who may roll back, empty a slot or loosen these rules.
        emergency_role: Who may point a slot to a version past these rules, with a reason.
        allow_unverified: Believe names people give when nobody logged in. For one person on one
            machine; every report says so.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    protected: dict[str, list[Requirement]]
    reviewer_role: Name = "reviewer"
    emergency_role: Name = "admin"
    allow_unverified: bool = False

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True
    )

    @field_validator("protected")
    @classmethod
    def _slots_are_clear(cls, protected: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if not protected:
            raise ValueError("must protect at least one slot")
        found: dict[str, list[Any]] = {}
        seen: dict[tuple[bool, str], str] = {}
        for text, requirements in protected.items():
            slot = _slot_text(text)
            key = (slot.startswith("@"), fold(slot))
            if key in seen:
                raise ValueError(f"names {seen[key]} twice: {text}")
            seen[key] = text
            if not requirements:
                raise ValueError(f"{text} has no requirements; an empty gate is never passed")
            found[slot] = requirements
        return found

    def slots(self) -> tuple[Slot, ...]:
        """Return the protected slots."""
        return tuple(Slot.parse(text) for text in self.protected)

    def requirements(self, slot: Slot) -> tuple[_Requirement, ...]:
        """Return the requirements of `slot`, empty if it is not protected."""
        return tuple(self.protected.get(str(slot), ()))

    def to_json(self) -> str:
        """Return the rules as one line of JSON that `parse_rules` reads back."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the rules."""
        return sha256_of_json(self.model_dump(mode="json", by_alias=True))


def parse_rules(
    text: str, *, name: str = GATE_FILE, error: type[AgentError] = BundleError
) -> GateRules:
    """Read ``gate.yaml`` (JSON is YAML too).

    Raises:
        AgentError: Of kind `error`; names file, line and field.
    """
    document = parse_yaml(text, name=name, error=error)
    _check_items(document, error)
    return validate_document(document, GateRules, error=error)


def combine(stored: Sequence[_Requirement], own: Sequence[_Requirement]) -> list[_Requirement]:
    """Return the stored requirements and those of the candidate's own that add something."""
    extra = [item for item in own if not any(known.implies(item) for known in stored)]
    return [*stored, *extra]


def loosened(old: GateRules, new: GateRules) -> list[str]:
    """Return how `new` is looser than `old`, empty if it is at least as tight."""
    found = []
    for slot in old.slots():
        wanted = new.requirements(slot)
        if not wanted:
            found.append(f"{slot} would no longer be protected")
            continue
        found += [
            f"{slot}: {item.title()}"
            for item in old.requirements(slot)
            if not any(candidate.implies(item) for candidate in wanted)
        ]
    if new.allow_unverified and not old.allow_unverified:
        found.append("allow_unverified would be true")
    for field in ("reviewer_role", "emergency_role"):
        if getattr(new, field) != getattr(old, field):
            found.append(f"{field} would be {getattr(new, field)}")
    return found


def default_rules() -> GateRules:
    """Return the rules of an agent that brings no ``gate.yaml``: strict, for what people load."""
    strict: list[dict[str, Any]] = [
        {"kind": "suite", "name": ANY_SUITE, "metric": "task_success", "minimum": 0.8},
        {"kind": "safety"},
        {"kind": "policy_tests"},
        {"kind": "contracts"},
        {"kind": "evidence_max_age", "hours": 168},
        {"kind": "approvals"},
    ]
    return GateRules.model_validate(
        {
            "apiVersion": "mlflow-agents/v1",
            "protected": {"Production": strict, "@champion": strict},
        }
    )


def _slot_text(text: str) -> str:
    try:
        return str(Slot.parse(text))
    except RequestError as error:
        raise ValueError(str(error)) from error


def _check_items(document: YamlDocument, error: type[AgentError]) -> None:
    """Check each requirement by its kind, so that a problem is reported on its own line."""
    protected = document.data.get("protected") if isinstance(document.data, dict) else None
    if not isinstance(protected, dict):
        return
    for slot, items in protected.items():
        for at, item in enumerate(items if isinstance(items, list) else ()):
            location = ("protected", slot, at)
            where = document.where(*location)
            if not isinstance(item, dict) or item.get("kind") not in KINDS:
                raise error(
                    "a requirement needs a `kind`",
                    where=where,
                    hint=f"One of {', '.join(KINDS)}.",
                )
            lines = {
                place[3:]: line
                for place, line in document.lines.items()
                if place[:3] == location
            }
            part = YamlDocument(document.name, item, lines)
            validate_document(part, KINDS[item["kind"]], error=error)
