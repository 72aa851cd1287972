"""Traces on local disk until the tracking server has them.

    mlflow-agents spool status
    mlflow-agents spool drain

`queue` keeps, `drainer` empties, `delivery` sends, `channel` sits in MLflow's tracing.
"""

from __future__ import annotations

from mlflow_agent_plugin.observability.spool.channel import (
    OWN_SPAN_KEY,
    SpoolChannel,
    close_spools,
    ensure_masking,
    ensure_spool,
    open_queue,
    spool_path,
)
from mlflow_agent_plugin.observability.spool.delivery import (
    LinkAwayError,
    MlflowReceiver,
    Receiver,
    RefusedError,
)
from mlflow_agent_plugin.observability.spool.drainer import Drainer, drain, drain_now
from mlflow_agent_plugin.observability.spool.queue import SpooledEvent, SpoolQueue, SpoolState

__all__ = [
    "OWN_SPAN_KEY",
    "Drainer",
    "LinkAwayError",
    "MlflowReceiver",
    "Receiver",
    "RefusedError",
    "SpoolChannel",
    "SpoolQueue",
    "SpoolState",
    "SpooledEvent",
    "close_spools",
    "drain",
    "drain_now",
    "ensure_masking",
    "ensure_spool",
    "open_queue",
    "spool_path",
]
