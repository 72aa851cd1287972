"""Whether a new version of a tool contract keeps the promises of the old one.

Rules:
- Arguments: every call that was fine must stay fine. A new required argument, a removed one, a
  narrower type, enum, bound or `additionalProperties` is breaking.
- Outputs: every field a caller could rely on must still be there and hold nothing new. A removed
  field, one that became optional, a wider type, enum or bound is breaking; a new field is not.
- A raised effect, a new scope and the loss of idempotence are breaking: whoever allowed the tool
  allowed something else.
- What cannot be compared (`not`, `if`, a changed `pattern` …) counts as breaking when it changes.
- A breaking change without a new major version is flagged as `needs_major`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities import Effect
from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.package.subschema import Side, broken_promises


class ContractStatus(str, Enum):
    """How a contract stands to its older version."""

    SAME = "same"
    COMPATIBLE = "compatible"
    BREAKING = "breaking"
    NEW = "new"
    REMOVED = "removed"


@dataclass(frozen=True)
class ContractChange:
    """What became of one contract.

    Attributes:
        tool: Contract name.
        status: Verdict.
        reasons: Why it is breaking, one sentence each; empty otherwise.
        notes: Other changes a reviewer should know.
        old_version: Version before, None if new.
        new_version: Version now, None if removed.
        needs_major: Breaking, but the major version did not rise.
    """

    tool: str
    status: ContractStatus
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    old_version: str | None = None
    new_version: str | None = None
    needs_major: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tool": self.tool,
            "status": self.status.value,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "old_version": self.old_version,
            "new_version": self.new_version,
            "needs_major": self.needs_major,
        }


def compare_contracts(old: ToolContract, new: ToolContract) -> ContractChange:
    """Compare two versions of one contract under the rules of this module."""
    if old == new:
        return ContractChange(
            new.name, ContractStatus.SAME, old_version=old.version, new_version=new.version
        )
    reasons = [
        *broken_promises(old.input, new.input, side=Side.INPUT),
        *broken_promises(old.output, new.output, side=Side.OUTPUT),
        *_wider_rights(old, new),
    ]
    notes = list(_notes(old, new))
    before, after = _version(old), _version(new)
    if after == before:
        notes.append(f"the contract changed, its version is still {new.version}")
    elif after < before:
        notes.append(f"the version went back from {old.version} to {new.version}")
    return ContractChange(
        new.name,
        ContractStatus.BREAKING if reasons else ContractStatus.COMPATIBLE,
        tuple(reasons),
        tuple(notes),
        old.version,
        new.version,
        needs_major=bool(reasons) and after[0] <= before[0],
    )


def compare_all(
    old: Mapping[str, ToolContract], new: Mapping[str, ToolContract]
) -> dict[str, ContractChange]:
    """Compare the contracts of two bundles, by tool name, sorted."""
    changes: dict[str, ContractChange] = {}
    for tool in sorted(set(old) | set(new)):
        if tool not in new:
            changes[tool] = ContractChange(
                tool, ContractStatus.REMOVED, old_version=old[tool].version
            )
        elif tool not in old:
            changes[tool] = ContractChange(tool, ContractStatus.NEW, new_version=new[tool].version)
        else:
            changes[tool] = compare_contracts(old[tool], new[tool])
    return changes


_EFFECTS = (Effect.READ, Effect.WRITE, Effect.IRREVERSIBLE)


def _wider_rights(old: ToolContract, new: ToolContract) -> list[str]:
    reasons = []
    if _EFFECTS.index(new.effect) > _EFFECTS.index(old.effect):
        reasons.append(f"the effect rose from {old.effect.value} to {new.effect.value}")
    scopes = sorted(set(new.scopes) - set(old.scopes))
    if scopes:
        reasons.append(f"it needs the new scope{'s' * (len(scopes) > 1)} {', '.join(scopes)}")
    if old.idempotent and not new.idempotent:
        reasons.append("it is no longer idempotent")
    return reasons


def _notes(old: ToolContract, new: ToolContract) -> list[str]:
    notes = []
    if _EFFECTS.index(new.effect) < _EFFECTS.index(old.effect):
        notes.append(f"the effect fell from {old.effect.value} to {new.effect.value}")
    dropped = sorted(set(old.sinks()) - set(new.sinks()))
    if dropped:
        notes.append(f"no longer count as sink arguments: {', '.join(dropped)}")
    vouched = sorted(set(new.trusted_fields) - set(old.trusted_fields))
    if vouched:
        notes.append(f"newly trusted fields of its output: {', '.join(vouched)}")
    for field in ("risk", "timeout_seconds", "cost_usd", "untrusted_output"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            shown = (getattr(value, "value", value) for value in (before, after))
            notes.append("{} changed from {} to {}".format(field, *shown))
    for field in ("description", "retry", "rate", "concurrency", "breaker", "examples"):
        if getattr(old, field) != getattr(new, field):
            notes += [f"{field} changed"]
    return notes


def _version(contract: ToolContract) -> tuple[int, ...]:
    return tuple(int(part) for part in contract.version.split("."))
