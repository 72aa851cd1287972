"""Plain values every room speaks: no I/O, no mlflow, no langchain.

Each closed vocabulary of the project is one enum here, spelled once.
"""

from mlflow_agent_plugin.entities.actor import ANONYMOUS, Actor
from mlflow_agent_plugin.entities.canonical import (
    Spelled,
    canonical_json,
    read_canonical,
    sha256_digest,
    sha256_of_json,
)
from mlflow_agent_plugin.entities.clock import Clock, utc_now
from mlflow_agent_plugin.entities.decision import (
    MAX_QUORUM,
    Decision,
    DecisionValue,
    PolicyRequest,
)
from mlflow_agent_plugin.entities.json_text import json_encoder
from mlflow_agent_plugin.entities.privacy import PrivacyAction, PrivacyPlace
from mlflow_agent_plugin.entities.reply import (
    AgentReply,
    AgentRequest,
    CallStatus,
    Outcome,
    PendingApproval,
    ToolCallRecord,
    Usage,
    Violation,
)
from mlflow_agent_plugin.entities.tool import Effect, Provenance, Risk, ToolCall

__all__ = [
    "ANONYMOUS",
    "MAX_QUORUM",
    "Actor",
    "AgentReply",
    "AgentRequest",
    "CallStatus",
    "Clock",
    "Decision",
    "DecisionValue",
    "Effect",
    "Outcome",
    "PendingApproval",
    "PolicyRequest",
    "PrivacyAction",
    "PrivacyPlace",
    "Provenance",
    "Risk",
    "Spelled",
    "ToolCall",
    "ToolCallRecord",
    "Usage",
    "Violation",
    "canonical_json",
    "json_encoder",
    "read_canonical",
    "sha256_digest",
    "sha256_of_json",
    "utc_now",
]
