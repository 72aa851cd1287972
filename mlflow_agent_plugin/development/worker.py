"""A worker process: opens the agent once, then plays the scenarios it is sent.

Rules:
- It talks JSON, one message a line: requests on standard input, answers on what was its standard
  output. Whatever tools print goes to standard error.
- The end of standard input means that the parent is gone: the worker ends at once.
- Its runtime store is in memory and of its own; before a worker ends well, the audit in it is
  verified.
- It evaluates exactly the content the parent named by digest, or nothing.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from datetime import datetime
from typing import IO, Any

ENVIRONMENT = {
    # The same sets and dictionaries in the same order, whatever process plays a case.
    "PYTHONHASHSEED": "0",
    # One worker, one core: libraries that start a thread for each core slow each other down.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A file in the current folder does not replace a library.
    "PYTHONSAFEPATH": "1",
}
COMMAND = "from mlflow_agent_plugin.development.worker import main; main()"


def main() -> None:
    """Run a worker on standard input and output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests = _read_requests(sys.stdin)
    try:
        _serve(requests, answers)
    except Exception as error:
        _say(answers, error=_error(error))
        os._exit(1)
    # Tools that never ended still have threads: do not wait for them.
    answers.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(requests: queue.Queue[Any], answers: IO[str]) -> None:
    from mlflow_agent_plugin.development.case import CasePlayer
    from mlflow_agent_plugin.development.scenario import Scenario
    from mlflow_agent_plugin.errors import IntegrityError
    from mlflow_agent_plugin.package import load_bundle
    from mlflow_agent_plugin.store import Store

    setup = requests.get()
    bundle = load_bundle(setup["bundle"])
    if bundle.digest.value != setup["agent_digest"]:
        raise IntegrityError(
            "the agent changed while it was evaluated",
            where=str(setup["bundle"]),
            hint="Evaluate it again.",
        )
    with Store.open("sqlite://") as store:
        player = CasePlayer(
            bundle,
            store=store,
            suite=setup["suite"],
            now=datetime.fromisoformat(setup["now"]),
            environment=setup["environment"],
            seed=setup["seed"],
        )
        _say(answers, ready=True)
        while (request := requests.get())["op"] == "play":
            scenario = Scenario.model_validate(request["scenario"])
            _say(answers, run=player.play(scenario).to_dict())
        player.close()
        _say(answers, closed=verified_audit(store))


def verified_audit(store: Any) -> dict[str, Any]:
    """Verify the audit of an evaluation; return what it counted.

    Raises:
        IntegrityError: It is broken, so the results say nothing.
    """
    from mlflow_agent_plugin.errors import IntegrityError
    from mlflow_agent_plugin.trust import verify_audit

    verification = verify_audit(store)
    if not verification.ok:
        raise IntegrityError(str(verification), where="audit of the evaluation")
    return {"audit_events": verification.events}


def _say(answers: IO[str], **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _read_requests(source: IO[str]) -> queue.Queue[Any]:
    requests: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in source:
            requests.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return requests


def _error(error: Exception) -> dict[str, Any]:
    from mlflow_agent_plugin.errors import AgentError

    if isinstance(error, AgentError):
        parts = {"problem": error.problem, "where": error.where, "hint": error.hint}
        return {"kind": type(error).__name__, **parts}
    text = f"{type(error).__name__}: {error}"
    return {"kind": "AgentRunError", "problem": text, "where": None, "hint": None}
