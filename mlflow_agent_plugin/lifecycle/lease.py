"""One pipeline at a time: per workspace on one machine, and per model on all machines.

Rules:
- In a workspace the lease is an operating-system lock on a file: it ends with the process that
  holds it, however that ends, so there is nothing to clean up after a crash. A note beside it says
  who holds it.
- Machines share no workspace, but the runtime store: there the lease is a row per model, renewed
  while its holder lives. When a machine dies it is free after `LEASE_SECONDS`.
- Whoever finds a lease taken is told by whom, and does nothing. Whoever loses one stops: see
  `fencing`.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, PipelineError
from mlflow_agent_plugin.lifecycle.fencing import HeldLease

if TYPE_CHECKING:
    from mlflow_agent_plugin.store import Store

LEASE_SECONDS = 120.0
"""How long a lease in the store outlives a holder that died."""


@contextmanager
def pipeline_lease(
    workspace: str | Path, *, purpose: str, name: str = "pipeline", clock: Clock = utc_now
) -> Iterator[None]:
    """Hold the workspace's lease for the block.

    Args:
        workspace: Folder the pipeline works in; made if missing.
        purpose: Why, for whoever finds it taken.
        name: Which lease: "pipeline" while the stages run, "trigger" from the decision on.
        clock: Time for the note.

    Raises:
        PipelineError: Another process, or another thread of this one, holds it.
    """
    from filelock import FileLock, Timeout

    folder = Path(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock", timeout=0, is_singleton=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise PipelineError(
            f"another pipeline is running here{_holder(folder, name)}",
            where=str(folder),
            hint="Wait for it; it frees the folder when it ends.",
        ) from error
    note = folder / f"{name}.holder.json"
    try:
        note.write_text(
            json.dumps(
                {
                    "purpose": purpose[:500],
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "since": clock().isoformat(),
                }
            ),
            encoding="utf-8",
        )
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


@contextmanager
def model_lease(
    store: Store,
    model_name: str,
    *,
    name: str = "pipeline",
    seconds: float = LEASE_SECONDS,
    clock: Clock = utc_now,
) -> Iterator[HeldLease]:
    """Hold a model's lease for the block, among all machines that share the runtime store.

    Args:
        store: The runtime store.
        model_name: Registered model.
        name: Which lease: "pipeline" while the stages run, "trigger" from the decision on.
        seconds: How long it lasts after its last renewal.
        clock: Source of time.

    Raises:
        PipelineError: Somebody else holds it.
        StoreError: The store cannot be written; nobody may go on then.
    """
    from mlflow_agent_plugin.store.leases import LeaseTable

    leases, lease = LeaseTable(store, clock=clock), f"{name}:{model_name}"
    holder = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
    if not leases.acquire(lease, holder, seconds):
        raise PipelineError(
            f"another pipeline for {model_name} is running: {leases.holder(lease) or 'elsewhere'}",
            where=store.uri,
            hint="Wait for it; if its machine died, the lease ends by itself.",
        )
    held = HeldLease(leases, lease, holder, seconds, clock=clock)
    try:
        with held.kept():
            yield held
    finally:
        with suppress(AgentError):  # it ends by itself
            leases.release(lease, holder)


def _holder(folder: Path, name: str) -> str:
    try:
        note: Any = json.loads((folder / f"{name}.holder.json").read_text(encoding="utf-8"))
        return f" since {note['since']} (process {note['process']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
