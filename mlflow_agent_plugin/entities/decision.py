"""What a policy engine is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities.actor import Actor

MAX_QUORUM = 16
"""Most people one approval can ask for."""


class DecisionValue(str, Enum):
    """The three answers a policy engine can give."""

    ALLOW = "allow"
    DENY = "deny"
    NEEDS_APPROVAL = "needs_approval"


@dataclass(frozen=True)
class PolicyRequest:
    """Everything a decision may depend on; the host makes it, never the model.

    Attributes:
        actor: Who asked.
        agent: Agent name.
        tool: Contract name of the tool.
        arguments: The call's arguments, already valid under the tool's input schema.
        session: Facts the runtime keeps: ``environment`` (str), ``calls`` (int, tool calls so far
            in the session), ``untrusted_seen`` (bool), ``turn`` (int), ``now`` (int, Unix seconds).
        provenance: Argument name to where its value came from (values of `Provenance`).
    """

    actor: Actor
    agent: str
    tool: str
    arguments: Mapping[str, Any]
    session: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A policy engine's answer with its reasons.

    Attributes:
        value: allow, deny or needs_approval.
        policy_ids: ``@id`` of every determining policy, sorted.
        reason: One sentence a person can read.
        approver_role: Role that must answer when `value` is needs_approval, else None.
        quorum: How many different holders of that role must say yes.
        errors: Engine errors; when not empty, `value` is deny.
    """

    value: DecisionValue
    policy_ids: tuple[str, ...] = ()
    reason: str = ""
    approver_role: str | None = None
    quorum: int = 1
    errors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "value": self.value.value,
            "policy_ids": list(self.policy_ids),
            "reason": self.reason,
            "approver_role": self.approver_role,
            "quorum": self.quorum,
            "errors": list(self.errors),
        }
