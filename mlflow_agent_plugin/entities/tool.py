"""What a tool call is, and the closed vocabularies around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlflow_agent_plugin.entities.canonical import sha256_of_json


class Effect(str, Enum):
    """What a tool does to the world."""

    READ = "read"
    WRITE = "write"
    IRREVERSIBLE = "irreversible"


class Risk(str, Enum):
    """How bad a wrong call or a wrong workflow would be."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Provenance(str, Enum):
    """Where the value of an argument came from."""

    USER = "user"
    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    MODEL = "model"


@dataclass(frozen=True)
class ToolCall:
    """One exact call an agent wants to make.

    Attributes:
        call_id: Id the model gave the call, unique within its session.
        tool: Contract name.
        arguments: JSON values as the model sent them.
        session_id: Conversation the call belongs to.
    """

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    session_id: str

    def action_digest(self, *, agent_digest: str, policy_digest: str) -> str:
        """Return the digest an approval is bound to.

        It covers tool, canonical arguments, session, call, agent and policies: an approval for one
        action is worthless for any other.

        Raises:
            ValueError: The arguments cannot be spelled in canonical JSON.
        """
        return sha256_of_json(
            {
                "call_id": self.call_id,
                "tool": self.tool,
                "arguments": dict(self.arguments),
                "session_id": self.session_id,
                "agent_digest": agent_digest,
                "policy_digest": policy_digest,
            }
        )
