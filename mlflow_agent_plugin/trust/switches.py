"""Kill switches: an operator stops a tool, an agent or a tenant, in every worker at once.

Rules:
- What is stopped stands in the runtime store; each change is audited in the same transaction.
- A worker looks there again after `FRESH_SECONDS` at the latest: a switch works within one second
  of its commit, wherever it was thrown.
- A store that cannot be read means that everything is stopped.
- A tool is named by its name, in all agents, or as ``agent/tool``, in one.
- Who asked is told that it was stopped, not why: reasons are for operators, in `list` and audit.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import RequestError, StoppedError, StoreError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import switches
from mlflow_agent_plugin.trust.audit import AuditKind, AuditLog
from mlflow_agent_plugin.trust.spelling import spell_field

if TYPE_CHECKING:
    from sqlalchemy import Row

FRESH_SECONDS = 0.5
"""How long a worker may rely on what it read."""

MAX_NAME_CHARS = 1024
MAX_REASON_CHARS = 1024


class SwitchKind(str, Enum):
    """What a switch stops."""

    TOOL = "tool"
    AGENT = "agent"
    TENANT = "tenant"


@dataclass(frozen=True)
class Switch:
    """A switch as it stands.

    Attributes:
        name: Of the tool (``tool`` or ``agent/tool``), agent or tenant.
        stopped: True until somebody starts it again.
        reason: Why it was last changed, for operators.
    """

    kind: SwitchKind
    name: str
    stopped: bool
    reason: str
    changed_by: str
    changed_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "kind": self.kind.value,
            "name": self.name,
            "stopped": self.stopped,
            "reason": self.reason,
            "changed_by": self.changed_by,
            "changed_at": self.changed_at.isoformat(),
        }


class SwitchBoard:
    """The kill switches of a store.

    Args:
        store: Where they are kept.
        clock: Time of changes.
        audit: Records each change; default: a log of its own.
        monotonic: Measures how old what was read is.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = utc_now,
        audit: AuditLog | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit or AuditLog(store, clock=clock)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stopped: frozenset[tuple[str, str]] = frozenset()
        self._read_at: float | None = None
        _boards.add(self)

    def stop(self, kind: SwitchKind | str, name: str, *, reason: str, by: Actor) -> Switch:
        """Stop a tool, an agent or a tenant.

        Args:
            kind: What to stop.
            name: Its name; a tool's may be ``agent/tool``. Nothing of that name need exist yet.
            reason: Why; operators read it.
            by: Who stops it.

        Raises:
            RequestError: The name or the reason is empty or too long.
            StoreError: The store failed: it is not known to be stopped.
        """
        return self._change(SwitchKind(kind), name, reason, by, stopped=True)

    def start(self, kind: SwitchKind | str, name: str, *, reason: str, by: Actor) -> Switch:
        """Start again what was stopped.

        Raises:
            RequestError: It is not stopped, or the reason is empty.
            StoreError: The store failed.
        """
        return self._change(SwitchKind(kind), name, reason, by, stopped=False)

    def list(self, *, everything: bool = False) -> Sequence[Switch]:
        """Return what is stopped; `everything`: also what was started again."""
        query = select(switches).order_by(switches.c.changed_at.desc(), switches.c.name)
        if not everything:
            query = query.where(switches.c.stopped)
        with self._store.read() as connection:
            return [_switch(row) for row in connection.execute(query)]

    def check(self, *, agent: str, tenant: str, tool: str | None = None) -> None:
        """Return if none of them is stopped.

        Raises:
            StoppedError: One is, or it cannot be known.
        """
        stopped = self._current()
        if not stopped:
            return
        tenant = spell_field(tenant) or ""
        if (SwitchKind.TENANT.value, tenant) in stopped:
            raise StoppedError("stopped for this tenant by an operator")
        if (SwitchKind.AGENT.value, agent) in stopped:
            raise StoppedError("the agent has been stopped by an operator", where=f"agent {agent}")
        if tool is not None and not stopped.isdisjoint(
            {(SwitchKind.TOOL.value, tool), (SwitchKind.TOOL.value, f"{agent}/{tool}")}
        ):
            raise StoppedError("the tool has been stopped by an operator", where=f"tool {tool}")

    def _current(self) -> frozenset[tuple[str, str]]:
        with self._lock:  # one reader at a time; the others wait for its answer
            now = self._monotonic()
            if self._read_at is not None and 0 <= now - self._read_at < FRESH_SECONDS:
                return self._stopped
            self._read_at = None
            try:
                with self._store.read() as connection:
                    rows = connection.execute(_STOPPED).all()
            except StoreError as error:
                raise StoppedError(
                    "it cannot be known what operators have stopped",
                    where=error.where,
                    hint=f"The store failed: {error.problem}.",
                ) from error
            self._stopped = frozenset((row.kind, row.name) for row in rows)
            # As old as the moment before it was read.
            self._read_at = now
            return self._stopped

    def _change(
        self, kind: SwitchKind, name: str, reason: str, by: Actor, *, stopped: bool
    ) -> Switch:
        _check_text("name", name, MAX_NAME_CHARS)
        _check_text("reason", reason, MAX_REASON_CHARS)
        values = {
            "kind": kind.value,
            "name": spell_field(name),
            "stopped": stopped,
            "reason": spell_field(reason),
            "changed_by": spell_field(by.user),
            "changed_at": self._clock(),
        }
        changed = {name: values[name] for name in values if name not in ("kind", "name")}
        make = sqlite_insert if self._store.dialect == "sqlite" else postgres_insert
        with self._audit.transaction() as transaction:
            connection = transaction.connection
            where = (switches.c.kind == kind.value, switches.c.name == values["name"])
            before = connection.execute(select(switches).where(*where)).first()
            if not stopped and (before is None or not before.stopped):
                raise RequestError(
                    "is not stopped",
                    where=f"{kind.value} {values['name']}",
                    hint="mlflow-agents switch list shows what is.",
                )
            connection.execute(
                make(switches)
                .values(values)
                .on_conflict_do_update(index_elements=["kind", "name"], set_=changed)
            )
            transaction.append(
                AuditKind.SWITCH_STOPPED if stopped else AuditKind.SWITCH_STARTED,
                actor=by,
                switch=kind.value,
                name=values["name"],
                reason=values["reason"],
            )
            row = connection.execute(select(switches).where(*where)).one()
        with self._lock:
            self._read_at = None  # this worker at least sees it at once
        return _switch(row)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._read_at = None


_STOPPED = select(switches.c.kind, switches.c.name).where(switches.c.stopped)

_boards: weakref.WeakSet[SwitchBoard] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for board in list(_boards):
        board._renew()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _check_text(field: str, text: str, limit: int) -> None:
    if not isinstance(text, str) or not 0 < len(text.strip()) <= len(text) <= limit:
        raise RequestError(f"is not a text of 1 to {limit} characters", where=field)


def _switch(row: Row[Any]) -> Switch:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public accessor
    return Switch(**{**values, "kind": SwitchKind(values["kind"])})
