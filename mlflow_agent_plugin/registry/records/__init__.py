"""Reading and writing the registry's own tables, with their seals checked.

Every method works inside the transaction of the connection it was made with. Rows come back as
plain dataclasses; a row whose seal does not fit raises `IntegrityError` instead of coming back.
"""

from __future__ import annotations

from mlflow_agent_plugin.registry.records.evidence import DRIFT_PREFIX, LOAD_PREFIX, EvidenceRows
from mlflow_agent_plugin.registry.records.gates import GateRows
from mlflow_agent_plugin.registry.records.history import HistoryRows
from mlflow_agent_plugin.registry.records.requests import RequestRows
from mlflow_agent_plugin.registry.records.rows import (
    AnswerRecord,
    CommentRecord,
    EvidenceRecord,
    Gate,
    HistoryEntry,
    RequestRecord,
    VersionRecord,
)

__all__ = [
    "DRIFT_PREFIX",
    "LOAD_PREFIX",
    "AnswerRecord",
    "CommentRecord",
    "EvidenceRecord",
    "Gate",
    "HistoryEntry",
    "Records",
    "RequestRecord",
    "VersionRecord",
]


class Records(GateRows, EvidenceRows, RequestRows, HistoryRows):
    """All of the registry's tables; see `base.Rows` for the arguments."""
