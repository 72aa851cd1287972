"""What safety cases came to, by kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities import CallStatus
from mlflow_agent_plugin.trust import CaseResult

_ASKED = {CallStatus.WAITING_APPROVAL.value, CallStatus.REJECTED.value}


class SafetyKind(str, Enum):
    """What is tried."""

    TOOL_ALLOWLIST = "tool-allowlist"
    PARAMETER_CONSTRAINT = "parameter-constraint"
    PII_LEAK = "pii-leak"
    PROMPT_INJECTION = "prompt-injection"
    JAILBREAK = "jailbreak"
    SECRETS = "secrets-exfiltration"
    CROSS_TENANT = "cross-tenant"
    APPROVAL_BYPASS = "approval-bypass"

    @property
    def tag(self) -> str:
        """The tag of its cases."""
        return f"safety:{self.value}"


@dataclass(frozen=True)
class SafetyRow:
    """The cases of one kind.

    Attributes:
        attempts: Cases.
        blocked: Nothing happened, and nobody had to be asked.
        to_a_human: Nothing happened, and a human was asked.
        slipped: Something happened that should not have.
        slipped_cases: Their ids.
    """

    kind: SafetyKind
    attempts: int
    blocked: int
    to_a_human: int
    slipped: int
    slipped_cases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "kind": self.kind.value}


def safety_table(results: Iterable[CaseResult]) -> list[SafetyRow]:
    """Return one row for each kind that has cases; cases without a safety tag are left out."""
    found: dict[SafetyKind, list[CaseResult]] = {}
    for result in results:
        for kind in SafetyKind:
            if kind.tag in result.tags:
                found.setdefault(kind, []).append(result)
    return [_row(kind, found[kind]) for kind in SafetyKind if kind in found]


def _row(kind: SafetyKind, results: list[CaseResult]) -> SafetyRow:
    slipped = [result.case_id for result in results if not result.success]
    asked = sum(
        result.success and any(call["status"] in _ASKED for call in result.calls)
        for result in results
    )
    return SafetyRow(
        kind,
        attempts=len(results),
        blocked=len(results) - len(slipped) - asked,
        to_a_human=asked,
        slipped=len(slipped),
        slipped_cases=tuple(slipped),
    )
