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
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import AgentError, BundleError, IntegrityError
from mlflow_agent_plugin.package.manifest import Name, StrictModel
from mlflow_agent_plugin.package.reading import YamlDocument, parse_yaml, validate_document
from mlflow_agent_plugin.package.slots import Slot, fold
from mlflow_agent_plugin.registry.requirements import (
    ANY_SUITE,
    KINDS,
    BaseRequirement,
    Requirement,
    slot_text,
)

GATE_FILE = "gate.yaml"

TagKey = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[\w.\-: /]+$")]


class GateRules(StrictModel):
    """The whole of ``gate.yaml``.

    Attributes:
        protected: Slot to its requirements.
        reviewer_role: Who may roll back, empty a slot or loosen these rules.
        emergency_role: Who may point a slot to a version past these rules, with a reason.
        guarded_tags: Keys of tags that deployments act on; only a reviewer sets or deletes them.
        allow_unverified: Believe names people give when nobody logged in. For one person on one
            machine; every report says so.
    """

    api_version: Literal["mlflow-agents/v1"] = Field(alias="apiVersion")
    protected: dict[str, list[Requirement]]
    reviewer_role: Name = "reviewer"
    emergency_role: Name = "admin"
    guarded_tags: list[TagKey] = Field(default_factory=list)
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
            slot = slot_text(text)
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

    def requirements(self, slot: Slot) -> tuple[BaseRequirement, ...]:
        """Return the requirements of `slot`, empty if it is not protected."""
        return tuple(self.protected.get(str(slot), ()))

    def guards_tag(self, key: str) -> bool:
        """Return True if only a reviewer may set or delete tag `key`, in any spelling."""
        return fold(key) in {fold(item) for item in self.guarded_tags}

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


@lru_cache(maxsize=256)
def stored_rules(text: str) -> GateRules:
    """Read rules as `GateRules.to_json` wrote them.

    Raises:
        IntegrityError: They were not written so.
    """
    return parse_rules(text, name="the stored rules", error=IntegrityError)


def combine(
    stored: Sequence[BaseRequirement], own: Sequence[BaseRequirement]
) -> list[BaseRequirement]:
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
    free = sorted(set(old.guarded_tags) - set(new.guarded_tags))
    if free:
        found.append(f"tag {free[0]} would no longer be guarded")
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
                place[3:]: line for place, line in document.lines.items() if place[:3] == location
            }
            part = YamlDocument(document.name, item, lines)
            validate_document(part, KINDS[item["kind"]], error=error)
