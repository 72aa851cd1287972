"""Watches a model's traffic and starts the pipeline when its rules say so.

Rules:
- Of all watchers of a model, on whatever machine, one looks at a time: the lease is in the runtime
  store. One that dies is followed by another when its lease is over; one that lost its lease stops
  the pipeline it started (`fencing`).
- A look that fails is logged and repeated at the next interval; it starts nothing.
- Every decision in which a rule is met, and every dry one, is in the audit with the reason of each
  rule. The same decision again (a cool-down that goes on) is recorded once.
- What comes out is a candidate with a promotion request; a reviewer decides.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, DataError, DriftInputError
from mlflow_agent_plugin.lifecycle.fencing import HeldLease
from mlflow_agent_plugin.lifecycle.triggers import Signals, TriggerDecision, TriggerPolicy, decide
from mlflow_agent_plugin.package.slots import Slot

if TYPE_CHECKING:
    from mlflow_agent_plugin.observability.environment import EnvironmentSources
    from mlflow_agent_plugin.store import Store

_logger = logging.getLogger(__name__)

LABEL_REACH = timedelta(days=90)
"""So long before a version was made a request may lie whose label still counts as new."""

LEASE_MARGIN_SECONDS = 60.0


@dataclass(frozen=True)
class Look:
    """One look at a model's traffic.

    Attributes:
        decision: What the rules said; None if another watcher holds the lease.
        result: What the pipeline made, if it was started.
    """

    decision: TriggerDecision | None
    result: Any = None

    def summary(self) -> str:
        """Return the look as one line for a log."""
        if self.decision is None:
            return "another watcher is at work"
        return self.decision.summary()


class Watcher:
    """Looks at signals, again and again.

    Args:
        policy: The rules.
        model_name: What is watched; it names the lease.
        store: The lease and the audit.
        gather: Returns the signals as they are now.
        start: Starts the pipeline for a decision and returns what it made; None decides only.
        interval_seconds: Between two looks.
        clock: Source of time.
    """

    def __init__(
        self,
        policy: TriggerPolicy,
        *,
        model_name: str,
        store: Store,
        gather: Callable[[], Signals],
        start: Callable[[TriggerDecision, Signals], Any] | None,
        interval_seconds: float = 900.0,
        clock: Clock = utc_now,
        actor: Actor | None = None,
    ) -> None:
        from mlflow_agent_plugin.store.leases import LeaseTable

        self._policy = policy
        self._model_name = model_name
        self._store = store
        self._gather = gather
        self._start = start
        self._interval = interval_seconds
        self._actor = actor
        self._clock = clock
        self._leases = LeaseTable(store, clock=clock)
        self._lease = f"watch:{model_name}"
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._last: str | None = None
        self._stop = threading.Event()

    def look(self) -> Look:
        """Look once.

        Raises:
            AgentError: The signals cannot be gathered, or the pipeline failed.
            StoreError: The lease or the audit cannot be written; nothing was started.
        """
        # Until after the next look: a watcher that waits keeps the others standing by.
        seconds = self._interval + LEASE_MARGIN_SECONDS
        if not self._leases.acquire(self._lease, self._holder, seconds):
            return Look(None)
        signals = self._gather()
        decision = decide(self._policy, signals)
        self._record(decision)
        # Gathering may take longer than the lease: whoever has it now goes on.
        if not self._leases.acquire(self._lease, self._holder, seconds):
            return Look(None)
        if not decision.fire or self._start is None:
            return Look(decision)
        held = HeldLease(self._leases, self._lease, self._holder, seconds, clock=self._clock)
        with held.kept():
            return Look(decision, self._start(decision, signals))

    def run(self, *, said: Callable[[Look], None] = lambda _look: None) -> None:
        """Look until `stop` is called; the lease is given up at the end."""
        try:
            while not self._stop.is_set():
                try:
                    said(self.look())
                except AgentError as error:
                    _logger.warning("A look at %s failed: %s", self._model_name, error)
                except Exception:
                    _logger.exception("A look at %s failed", self._model_name)
                self._stop.wait(self._interval)
        finally:
            self.close()

    def stop(self) -> None:
        """End `run` after the look it is at."""
        self._stop.set()

    def close(self) -> None:
        """Give the lease up."""
        self._leases.release(self._lease, self._holder)

    def _record(self, decision: TriggerDecision) -> None:
        from mlflow_agent_plugin.config import Settings
        from mlflow_agent_plugin.trust import AuditKind, AuditLog, local_actor

        said = decision.summary()
        if not decision.reasons() or (said == self._last and not decision.fire):
            return
        self._last = said
        AuditLog(self._store).append(
            AuditKind.TRIGGER_DECIDED,
            actor=self._actor or local_actor(Settings.from_env()),
            model=self._model_name,
            dry_run=self._start is None,
            decision=decision.to_dict(),
        )


def version_in(model_name: str, to: str) -> str:
    """Return the version a slot points to.

    Raises:
        MlflowException: The model, or the alias, does not exist.
        DataError: The stage is empty.
    """
    from mlflow import MlflowClient

    slot, client = Slot.parse(to), MlflowClient()
    if slot.is_alias:
        return str(client.get_model_version_by_alias(model_name, slot.name).version)
    found = client.get_latest_versions(model_name, [slot.name])
    if not found:
        raise DataError(
            "no version serves here", where=f"{model_name}/{slot}", hint="Promote one first."
        )
    return str(found[0].version)


def gather_signals(
    model_name: str,
    version: str,
    *,
    table: str | Path,
    hours: float = 24.0,
    windows: int = 7,
    experiment_ids: list[str] | None = None,
    drift: bool = True,
    environment: EnvironmentSources | None = None,
    now: datetime | None = None,
) -> Signals:
    """Bring the monitoring table up to date and return what it and the registry say.

    Args:
        model_name: Registered model.
        version: The version in service.
        table: Folder of the monitoring table.
        hours: Length of a window.
        windows: How many whole windows before now are looked at.
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        drift: Judge drift, too; it takes seconds of CPU.
        environment: Where tools and knowledge live outside; None: not looked at.
        now: The end of the last window; default: now.

    Raises:
        DataError: The table cannot be built.
        MlflowException: The server cannot be read.
    """
    from mlflow import MlflowClient

    from mlflow_agent_plugin.lifecycle.environment import look_at_environment
    from mlflow_agent_plugin.lifecycle.labels import collect_labels
    from mlflow_agent_plugin.lifecycle.retraining import last_started
    from mlflow_agent_plugin.observability import (
        compute_task_metrics,
        monitoring_table,
        read_table,
    )
    from mlflow_agent_plugin.observability.drift import check_windows

    end = now or utc_now()
    span = timedelta(hours=hours)
    monitoring_table(experiment_ids, path=table)
    rows = read_table(table, since=end - span * windows, until=end)
    metrics = []
    for number in range(windows, 0, -1):
        begin = end - span * number
        part = rows[(rows["event_time"] >= begin) & (rows["event_time"] < begin + span)]
        metrics.append(compute_task_metrics(part))
    made = MlflowClient().get_model_version(model_name, version).creation_timestamp
    created = datetime.fromtimestamp(made / 1000, tz=timezone.utc)
    verdicts = []
    if drift and not rows.empty:
        try:
            verdicts = check_windows(f"models:/{model_name}/{version}", rows, hours=hours)
        except DriftInputError as error:
            _logger.warning("Drift is not known: %s", error)
    return Signals(
        now=end,
        drift=verdicts,
        metrics=metrics,
        new_labels=len(
            collect_labels(experiment_ids, since=created - LABEL_REACH, given_since=created)
        ),
        version_created_at=created,
        last_started_at=last_started(model_name),
        environment=(
            None if environment is None else look_at_environment(model_name, version, environment)
        ),
    )
