"""The journal of a running evaluation: a killed run goes on where it was, no case twice.

Rules:
- One journal for each (agent digest, suite digest, seed); another agent or suite never reads it.
- A case is in it completely or not at all: a line that was cut off is dropped and played again.
- One run at a time: the second is told that the first is running.
- It lies in a folder only its owner can read or write: what is in it will be signed. Where there is
  no such folder (keys on a read-only mount), a killed run starts again from the beginning.
- It is deleted when the run's results are where they belong; evaluating again plays again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.development.case import CaseRun
from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.errors import ConfigError, PipelineError

_logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return the folder of journals: beside the keys, which need the same protection."""
    return Settings.from_env().key_dir.parent / "evaluations"


class Journal:
    """The open journal of one run.

    Attributes:
        runs: Cases that were played already, by case id.
        path: The file.
    """

    def __init__(self, path: Path, file: IO[bytes], header: dict[str, Any]) -> None:
        self.path = path
        self._file = file
        self.runs: dict[str, CaseRun] = {}
        self._read(header)

    def add(self, run: CaseRun) -> None:
        """Write down a played case."""
        self._file.write(json.dumps(run.to_dict()).encode() + b"\n")
        self._file.flush()
        self.runs[run.result.case_id] = run

    def discard(self) -> None:
        """Delete the journal: its results are safe elsewhere."""
        self.path.unlink(missing_ok=True)

    def _read(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                if number == 0:
                    if values != header:
                        break
                else:
                    run = CaseRun.from_dict(values)
                    self.runs.setdefault(run.result.case_id, run)
            except ValueError:
                break
            good += len(line)
        self._file.seek(good)
        self._file.truncate()
        if good == 0:
            self._file.write(json.dumps(header).encode() + b"\n")
            self._file.flush()


@contextmanager
def open_journal(
    *, agent_digest: str, suite_digest: str, seed: int, folder: Path | None = None
) -> Iterator[Journal]:
    """Open the journal of a run.

    Raises:
        PipelineError: The same evaluation is running already.
        ConfigError: The folder given cannot be used.
    """
    header = {
        "agent_digest": agent_digest,
        "suite_digest": suite_digest,
        "seed": seed,
        "version": __version__,
    }
    name = f"{sha256_of_json(header).removeprefix('sha256:')[:32]}.jsonl"
    with ExitStack() as stack:
        try:
            path, file = _open(folder or default_folder(), name)
        except OSError as error:
            where = str(folder or default_folder())
            if folder is not None:
                raise ConfigError(
                    f"cannot keep the journal of the evaluation: {error.strerror}", where=where
                ) from error
            _logger.warning("%s: %s; a killed run will start again", where, error.strerror)
            path, file = _open(Path(stack.enter_context(TemporaryDirectory())), name)
        stack.enter_context(file)
        _lock(file, path)
        yield Journal(path, file, header)


def _open(folder: Path, name: str) -> tuple[Path, IO[bytes]]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    return path, os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such lock on Windows: two runs would both play every case
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise PipelineError(
            "the same evaluation is running already",
            where=str(path),
            hint="Wait for it, or stop it and start again: it goes on where it was.",
        ) from error
