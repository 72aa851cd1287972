"""The state of one turn while it runs, visible to the gateway through a context variable.

A graph node that leaves the turn's context (a thread of its own making) finds no turn, and the
gateway refuses its calls.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

from mlflow_agent_plugin.entities import Actor, PendingApproval, ToolCallRecord


@dataclass
class Turn:
    """One turn of one session.

    Attributes:
        request_id: Id of the request in audit and trace.
        owner: Who holds the session's lease.
        number: Turns of the session so far, this one included.
        records: What became of each tool call, by call id, in order of completion.
        started: Tool calls begun in this turn, for the budget.
    """

    request_id: str
    session_id: str
    actor: Actor
    owner: str
    number: int
    event_time: datetime
    records: dict[str, ToolCallRecord] = field(default_factory=dict)
    approvals: dict[str, PendingApproval] = field(default_factory=dict)
    started: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_call(self) -> int:
        """Count one more tool call and return how many this turn has begun."""
        with self.lock:
            self.started += 1
            return self.started

    def record(self, record: ToolCallRecord) -> None:
        """Keep what became of a call; a later record of the same call replaces the earlier one."""
        with self.lock:
            self.records[record.call_id] = record


CURRENT_TURN: ContextVar[Turn | None] = ContextVar("mlflow_agents_turn", default=None)
