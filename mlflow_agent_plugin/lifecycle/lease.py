"""One pipeline per workspace at a time, on one machine.

The lease is an operating-system lock on a file: it ends with the process that holds it, however
that ends, so there is nothing to clean up after a crash. A note beside it says who holds it.
Machines that share no file system do not see each other's lease; run the trigger on one of them.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import PipelineError


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


def _holder(folder: Path, name: str) -> str:
    try:
        note: Any = json.loads((folder / f"{name}.holder.json").read_text(encoding="utf-8"))
        return f" since {note['since']} (process {note['process']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
