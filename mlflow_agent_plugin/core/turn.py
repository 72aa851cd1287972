"""The state of one turn while it runs, visible to the gateway through a context variable.

A graph node that leaves the turn's context (a thread of its own making) finds no turn, and the
gateway refuses its calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.provenance import TextReader
from mlflow_agent_plugin.core.resilience.spend import TurnSpend
from mlflow_agent_plugin.core.unsaved import UnsavedState
from mlflow_agent_plugin.entities import Actor, PendingApproval, ToolCallRecord, Violation
from mlflow_agent_plugin.entities.sensitive import mask_value
from mlflow_agent_plugin.observability.steps import Step

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage

    from mlflow_agent_plugin.trust import AuditSubject


@dataclass
class Turn:
    """One turn of one session.

    Attributes:
        request_id: Id of the request in audit and trace.
        owner: Who holds the session's lease.
        number: Turns of the session so far, this one included.
        records: What became of each tool call, by call id, in order of completion.
        started: Tool calls begun in this turn, for the budget.
        retry_after_seconds: A limit stopped a part of the turn: when to try again.
        spend: The budget of tokens, money and time; None where nothing is limited.
        steps: What it did, for the monitoring table.
        violations: Safety violations, in order.
        answers: State and waiting time (seconds) of each answered approval, by its id.
        tries: Times each call reached its tool, by idempotency key.
        messages: How many the session held before the step that runs next; None: not looked yet.
        begun: When it began, on the monotonic clock.
        told: What models were told of the turn's calls, in order of completion.
        reader: Reads the session's texts for the search of where arguments came from.
        audited: Makes a JSON value fit for the audit.
        subjects: What its audit events are about, by agent's name and digest.
        unsaved: The session state its next transaction has to save.
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
    spend: TurnSpend | None = None
    retry_after_seconds: float | None = None
    steps: list[Step] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    answers: dict[str, tuple[str, float]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    messages: int | None = None
    begun: float = field(default_factory=time.perf_counter)
    told: tuple[ToolMessage, ...] = ()
    reader: TextReader = field(default_factory=TextReader, repr=False)
    audited: Callable[[Any], Any] = field(default=mask_value, repr=False)
    subjects: dict[tuple[str, str], AuditSubject] = field(default_factory=dict, repr=False)
    unsaved: UnsavedState = field(default_factory=UnsavedState, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def has_acted(self) -> bool:
        """True if a tool has run in this turn, or a human has been asked."""
        return bool(self.records)

    def limit(self, retry_after_seconds: float | None) -> None:
        """Note that a limit stopped a part of the turn; the longest wait counts."""
        if retry_after_seconds is not None:
            with self.lock:
                self.retry_after_seconds = max(retry_after_seconds, self.retry_after_seconds or 0)

    def count_call(self) -> int:
        """Count one more tool call and return how many this turn has begun."""
        with self.lock:
            self.started += 1
            return self.started

    def count_try(self, key: str) -> int:
        """Count one more try of a call and return which one it is."""
        with self.lock:
            self.tries[key] = self.tries.get(key, 0) + 1
            return self.tries[key]

    def keep_step(self, step: Step) -> None:
        """Keep a finished step."""
        if step.call_id is not None:
            step.tries = self.tries.get(f"{self.session_id}:{step.call_id}")
        with self.lock:
            self.steps.append(step)

    def note_violation(self, kind: Violation) -> None:
        """Note a safety violation."""
        with self.lock:
            self.violations.append(kind)

    def note_answer(self, approval_id: str, state: str, waited_seconds: float) -> None:
        """Note that a person answered; asked about again, an approval still counts once."""
        with self.lock:
            self.answers.setdefault(approval_id, (state, waited_seconds))

    def record(self, record: ToolCallRecord) -> None:
        """Keep what became of a call; a later record of the same call replaces the earlier one."""
        with self.lock:
            self.records[record.call_id] = record
        self.limit(record.retry_after_seconds)

    def tell(self, message: ToolMessage) -> None:
        """Keep what a model is told of a call."""
        with self.lock:
            self.told = (*self.told, message)


CURRENT_TURN: ContextVar[Turn | None] = ContextVar("mlflow_agents_turn", default=None)
