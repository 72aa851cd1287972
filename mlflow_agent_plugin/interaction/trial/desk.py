"""Begins trials, and carries messages to the processes that run them.

Rules:
- A version on trial gets a world of its own. Its process inherits none of the server's settings:
  no address or credential of MLflow, no runtime store, no signing key, no secret for its tools, no
  resources but those its own manifest names. Variables an operator lists by name go with it, for
  example the key of a model provider.
- It is a process of the same user on the same machine, not a sandbox: who may begin a trial is whom
  you let run code here. Trials are off unless the server was started with them.
- At most `MAX_TRIALS` processes at a time; each ends when it has been quiet for a while. An answer
  that takes longer than `ANSWER_SECONDS` ends its process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from mlflow_agent_plugin.errors import (
    AgentRunError,
    QuotaExceededError,
    RequestError,
    SessionBusyError,
)
from mlflow_agent_plugin.interaction.trial.folder import (
    LOG,
    SOCKET,
    Trial,
    TrialFolder,
    base_folder,
    new_trial_id,
)
from mlflow_agent_plugin.interaction.trial.talk import MAX_ANSWER_BYTES, MAX_TURNS, Said, Turn

MAX_TRIALS = 4
START_SECONDS = 120.0
ANSWER_SECONDS = 120.0
_LOCK = "lock"
_PID = "pid"
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "SYSTEMROOT")


@dataclass
class TrialDesk:
    """Where a server tries versions.

    Args:
        variables: Names of variables that go with a version on trial.
        base: Folder of all trials; default: this user's own below the temporary folder.
    """

    variables: Sequence[str] = ()
    base: Path | None = None
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(
        self, content: Path, *, user: str, tenant: str, model: str, version: int
    ) -> TrialFolder:
        """Begin a trial of the version whose model folder is `content`.

        Raises:
            QuotaExceededError: Too many run already.
        """
        if self.running() >= MAX_TRIALS:
            raise QuotaExceededError(
                f"{MAX_TRIALS} versions are on trial here already",
                hint="End one, or wait until one has been quiet for a quarter of an hour.",
            )
        trial = Trial(
            trial_id=new_trial_id(), user=user, tenant=tenant, model=model, version=version
        )
        made = TrialFolder.create(trial, content, base=self.base)
        self._start(made)
        return made

    def find(self, trial_id: str, *, user: str, tenant: str) -> TrialFolder:
        """Return the trial somebody began; raises as `TrialFolder.find`."""
        return TrialFolder.find(trial_id, user=user, tenant=tenant, base=self.base)

    def running(self) -> int:
        """Return how many processes run versions, begun by any process of the server."""
        self._children = [child for child in self._children if child.poll() is None]
        return sum(
            _lives(folder) for folder in (self.base or base_folder()).iterdir() if folder.is_dir()
        )

    def say(self, folder: TrialFolder, said: Said) -> Turn:
        """Say something to the version on trial, keep and return what came of it.

        Raises:
            RequestError: There is nothing to say, or the trial is full.
            SessionBusyError: It still works on what was said before.
            AgentRunError: Its process does not start, ended, or takes too long.
        """
        from filelock import FileLock, Timeout

        if not said.text.strip() and said.approval_id is None:
            raise RequestError("the message is empty", where="text", hint="Say something.")
        lock = FileLock(folder.path / _LOCK)
        try:
            with lock.acquire(timeout=0):
                if len(folder.turns()) >= MAX_TURNS:
                    raise RequestError(f"a trial has at most {MAX_TURNS} turns; begin a new one")
                if not _lives(folder.path):
                    self._start(folder)
                turn = self._ask(folder, said)
                folder.keep(turn)
                return turn
        except Timeout as error:
            raise SessionBusyError("the version still works on its last answer") from error

    def end(self, folder: TrialFolder) -> None:
        """End the process of a trial and remove everything of it."""
        _kill(folder.path)
        folder.remove()

    def _start(self, folder: TrialFolder) -> None:
        with (folder.path / LOG).open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "mlflow_agent_plugin.interaction.trial.worker",
                 str(folder.path)],
                env=self._environment(folder.path),
                cwd=folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._children.append(child)
        (folder.path / SOCKET).unlink(missing_ok=True)
        (folder.path / _PID).write_text(str(child.pid), "ascii")

    def _environment(self, path: Path) -> dict[str, str]:
        wanted = {*_INHERITED, *self.variables}
        return {
            **{name: value for name, value in os.environ.items() if name in wanted},
            "HOME": str(path),
            "MLFLOW_TRACKING_URI": (path / "traces").as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{path / 'agents.db'}",
            "MLFLOW_AGENTS_KEY_DIR": str(path / "keys"),
            "MLFLOW_AGENTS_SPOOL": "false",
            # What production's rules say is what one wants to see; the world is a private one.
            "MLFLOW_AGENTS_ENVIRONMENT": "production",
            "OMP_NUM_THREADS": "1",
        }

    def _ask(self, folder: TrialFolder, said: Said) -> Turn:
        from multiprocessing.connection import Client

        deadline = time.monotonic() + START_SECONDS
        while not folder.socket.exists():
            if not _lives(folder.path) or time.monotonic() > deadline:
                _kill(folder.path)
                raise AgentRunError(
                    f"the version does not start: {_last_line(folder.path / LOG)}",
                    hint="Try it on your own machine: mlflow-agents validate BUNDLE.",
                )
            time.sleep(0.05)
        try:
            with Client(str(folder.socket), "AF_UNIX") as connection:
                connection.send_bytes(said.model_dump_json().encode())
                if not connection.poll(ANSWER_SECONDS):
                    _kill(folder.path)
                    raise AgentRunError(f"no answer within {ANSWER_SECONDS:.0f} seconds")
                return Turn.model_validate_json(connection.recv_bytes(MAX_ANSWER_BYTES))
        except ValidationError as error:
            _kill(folder.path)
            raise AgentRunError("the version's process gave no proper answer") from error
        except (EOFError, OSError) as error:
            _kill(folder.path)
            raise AgentRunError("the version's process ended while it answered") from error


def _lives(path: Path) -> bool:
    """Say whether a trial's process runs; a number that another program has by now does not."""
    try:
        pid = int((path / _PID).read_text("ascii"))
        if Path("/proc/self").exists():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            # Empty for a moment while it starts, and for good once it has ended.
            return str(path).encode() in command if command else not _has_ended(pid)
        os.kill(pid, 0)
    except (OSError, ValueError):
        return False
    return True


def _has_ended(pid: int) -> bool:
    # proc_pid_stat(5): the state follows the command's name, which stands in parentheses.
    state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    return state in (b"Z", b"X")


def _kill(path: Path) -> None:
    """End a trial's process and whatever it started."""
    if not _lives(path):
        return
    try:
        os.killpg(int((path / _PID).read_text("ascii")), signal.SIGKILL)
    except (OSError, ValueError):
        return


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "no reason given"
