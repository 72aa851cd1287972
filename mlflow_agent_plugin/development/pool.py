"""Worker processes, watched: a case that hangs or kills its process is a failed case, no more.

Rules:
- One case at a time in each worker; whoever is free takes the next.
- A worker whose case took too long is killed, one that died is replaced; in both cases exactly that
  case has failed and the others go on.
- A worker that does not start is an error of the whole run: the agent cannot be opened.
- Stopping early kills every worker; nothing survives the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow_agent_plugin
from mlflow_agent_plugin import errors
from mlflow_agent_plugin.development.case import CaseRun, stopped_case
from mlflow_agent_plugin.development.scenario import Scenario
from mlflow_agent_plugin.development.worker import COMMAND, ENVIRONMENT
from mlflow_agent_plugin.errors import AgentError, AgentRunError

START_SECONDS = 300.0
"""How long a worker may take to open the agent."""

CLOSE_SECONDS = 120.0
"""How long a worker may take to verify its audit."""

GRACE_SECONDS = 0.5
_END: dict[str, Any] = {}


class _StoppedError(Exception):
    """The worker's process is gone or was killed; the text says why."""


class Worker:
    """One worker process.

    Args:
        setup: What the worker is to open, see `worker`.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        paths = [str(Path(mlflow_agent_plugin.__file__).parents[1])]
        if os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, name="answers", daemon=True).start()
        try:
            self._send(setup)
            self._receive(START_SECONDS)
        except _StoppedError as error:
            tail = self._tail()
            self.kill()
            raise AgentRunError(
                f"the evaluation could not start: {error}{tail}",
                hint="Open the agent with load_agent(...).ask(...) to see what is wrong.",
            ) from None
        except AgentError:
            self.kill()
            raise

    def play(self, scenario: Scenario, *, suite: str) -> tuple[CaseRun, bool]:
        """Play one scenario; return its run and whether the worker is still good for another."""
        started = time.perf_counter()
        try:
            values = scenario.model_dump(mode="json", exclude_unset=True)
            self._send({"op": "play", "scenario": values})
            answer = self._receive(scenario.max_seconds + GRACE_SECONDS)
            return CaseRun.from_dict(answer["run"]), True
        except TimeoutError:
            why = f"it took longer than {scenario.max_seconds:g} seconds"
        except _StoppedError as error:
            why = str(error)
        self.kill()
        seconds = time.perf_counter() - started
        return stopped_case(scenario, why, suite=suite, seconds=seconds), False

    def close(self) -> dict[str, Any]:
        """End the worker well; return what it counted.

        Raises:
            IntegrityError: The audit of its cases is broken.
            AgentRunError: It did not end well.
        """
        try:
            self._send({"op": "close"})
            return dict(self._receive(CLOSE_SECONDS)["closed"])
        except (_StoppedError, TimeoutError) as error:
            raise AgentRunError(f"an evaluation worker did not end well: {error}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the worker's process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._errors):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise _StoppedError(self._how_it_died()) from None

    def _receive(self, timeout_seconds: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            raise TimeoutError from None
        if answer is _END:
            raise _StoppedError(self._how_it_died())
        if "error" in answer:
            found = answer["error"]
            kind = getattr(errors, found["kind"], AgentRunError)
            raise kind(found["problem"], where=found["where"], hint=found["hint"])
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    self._answers.put(json.loads(line))
                except ValueError:
                    break
        self._answers.put(_END)

    def _how_it_died(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the process stopped talking"
        return f"the process died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:300]})" if lines else ""


class WorkerPool:
    """Several workers on one list of scenarios.

    Args:
        setup: What each worker opens.
        suite: Name of the suite.
        workers: Number of processes, at least 1.

    Attributes:
        audit_events: Audit events of workers that ended well, each audit verified.
    """

    def __init__(self, setup: Mapping[str, Any], *, suite: str, workers: int) -> None:
        self._setup = setup
        self._suite = suite
        self._workers = workers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._alive: set[Worker] = set()
        self._results: queue.Queue[CaseRun | BaseException | None] = queue.Queue()
        self.audit_events = 0

    def play(self, scenarios: Sequence[Scenario]) -> Iterator[CaseRun]:
        """Play `scenarios`, yielding runs as they end.

        Raises:
            AgentError: The agent cannot be opened, or the audit of a worker is broken.
        """
        todo: queue.SimpleQueue[Scenario] = queue.SimpleQueue()
        for scenario in scenarios:
            todo.put(scenario)
        running = min(self._workers, len(scenarios))
        for number in range(running):
            threading.Thread(
                target=self._drive, args=(todo,), name=f"worker-{number}", daemon=True
            ).start()
        try:
            while running:
                result = self._results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            self._stop.set()
            with self._lock:
                for worker in self._alive:
                    worker.kill()

    def _drive(self, todo: queue.SimpleQueue[Scenario]) -> None:
        worker: Worker | None = None
        try:
            while not self._stop.is_set():
                try:
                    scenario = todo.get_nowait()
                except queue.Empty:
                    break
                worker = worker or self._start()
                run, good = worker.play(scenario, suite=self._suite)
                if self._stop.is_set():
                    return
                if not good:
                    self._forget(worker)
                    worker = None
                self._results.put(run)
            if worker is not None and not self._stop.is_set():
                counted = worker.close()
                self._forget(worker)
                with self._lock:
                    self.audit_events += int(counted["audit_events"])
            self._results.put(None)
        except BaseException as error:  # the caller's thread raises it
            self._results.put(error)

    def _start(self) -> Worker:
        worker = Worker(self._setup)
        with self._lock:
            self._alive.add(worker)
            if self._stop.is_set():
                worker.kill()
        return worker

    def _forget(self, worker: Worker) -> None:
        with self._lock:
            self._alive.discard(worker)
