"""The process that runs a version on trial: ``python -m …interaction.trial.worker FOLDER``.

Rules:
- It loads the copy in its folder, checked against its digest, and answers one message at a time on
  a socket beside it. Everything it keeps lies in that folder: runtime store, keys, traces.
- Whoever tries the version may also answer its waiting calls: nothing here is anybody's but his.
- It ends when nobody has spoken for `IDLE_SECONDS`, when it is told to, and when its folder is
  gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor, AgentReply, AgentRequest
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.trial.folder import MODEL, SOCKET
from mlflow_agent_plugin.interaction.trial.talk import Call, Question, Said, Step, Turn

if TYPE_CHECKING:
    from mlflow_agent_plugin.core import AgentRuntime

_logger = logging.getLogger(__name__)

IDLE_SECONDS = 900.0
TENANT = "trial"
SESSION = "trial"
_FACTS = ("agent.decision", "agent.policy_ids", "agent.status", "agent.error", "agent.intent",
          "agent.confidence", "agent.chunks", "agent.input_tokens", "agent.output_tokens",
          "mlflow.llm.model")  # fmt: skip
_SHOWN_CHARS = 2000


def main(folder: Path) -> None:
    """Answer messages until nobody speaks any more."""
    from multiprocessing.connection import Listener

    from mlflow_agent_plugin.core import AgentRuntime
    from mlflow_agent_plugin.core.flavor import load_verified

    runtime = AgentRuntime.open(load_verified(folder / MODEL))
    draft = folder / f"{SOCKET}.draft"
    with runtime, Listener(str(draft), "AF_UNIX") as listener:
        # Under its own name only now: whoever finds it is answered.
        draft.rename(folder / SOCKET)
        try:
            _listen(listener, runtime, folder)
        finally:
            (folder / SOCKET).unlink(missing_ok=True)


def _listen(listener: Any, runtime: AgentRuntime, folder: Path) -> None:
    waiting = listener._listener._socket  # noqa: SLF001 - the only way to a time limit
    waiting.settimeout(IDLE_SECONDS)
    while folder.exists():
        try:
            connection = listener.accept()
        except TimeoutError:
            return
        with connection, contextlib.suppress(EOFError, OSError):
            message = json.loads(connection.recv_bytes(1 << 20))
            if message is None:
                return
            turn = take_turn(runtime, Said.model_validate(message))
            connection.send_bytes(turn.model_dump_json().encode())


def take_turn(runtime: AgentRuntime, said: Said) -> Turn:
    """Let the version answer; a failure is an answer too."""
    actor = Actor(said.user, tenant=TENANT, roles=frozenset(said.roles), verified=said.verified)
    try:
        if said.approval_id is not None:
            _answer(runtime, said)
        request = AgentRequest(
            text=said.text, session_id=SESSION, actor=actor, resume=said.approval_id is not None
        )
        return _turn(said, runtime.invoke(request), runtime)
    except AgentError as error:
        return Turn(said=said, problem=str(error)[:_SHOWN_CHARS])
    except Exception as error:
        _logger.exception("a turn on trial failed")
        return Turn(said=said, problem=f"{type(error).__name__}; the worker's log says more")


def _answer(runtime: AgentRuntime, said: Said) -> None:
    """Answer a waiting call in the role it asks for."""
    assert said.approval_id is not None
    asked = runtime.approvals.get(said.approval_id)
    reviewer = Actor(
        f"reviewer of {said.user}", tenant=TENANT, roles=frozenset({asked.role}), verified=True
    )
    if said.yes:
        runtime.approvals.approve(said.approval_id, reviewer, "on trial")
    else:
        runtime.approvals.reject(said.approval_id, reviewer, "on trial")


def _turn(said: Said, reply: AgentReply, runtime: AgentRuntime) -> Turn:
    return Turn(
        said=said,
        text=reply.text,
        outcome=reply.outcome.value,
        intent=reply.intent,
        confidence=reply.confidence,
        calls=[
            Call(
                tool=call.tool[:500],
                arguments=dict(call.arguments),
                status=call.status.value,
                decision=call.decision,
                policy_ids=list(call.policy_ids),
                output=call.output,
                error=call.error,
            )
            for call in reply.calls
        ],
        questions=[
            Question(
                approval_id=item.approval_id,
                tool=item.tool,
                arguments=dict(item.arguments),
                role=item.role,
                reason=item.reason,
            )
            for item in runtime.waiting(SESSION)
        ],
        seconds=reply.seconds,
        input_tokens=reply.usage.input_tokens,
        output_tokens=reply.usage.output_tokens,
        cost_usd=reply.usage.cost_usd,
        steps=list(_steps(reply.trace_id)),
    )


def _steps(trace_id: str | None) -> Iterator[Step]:
    """Return the spans of a trace as they lie below one another."""
    import mlflow

    trace = None if trace_id is None else mlflow.get_trace(trace_id)
    if trace is None:
        return
    below: dict[str | None, list[Any]] = {}
    for span in trace.data.spans:
        below.setdefault(span.parent_id, []).append(span)
    begun = min((span.start_time_ns for span in trace.data.spans), default=0)

    def walk(parent: str | None, depth: int) -> Iterator[Step]:
        for span in sorted(below.get(parent, []), key=lambda item: int(item.start_time_ns)):
            yield Step(
                name=str(span.name)[:500],
                kind=str(span.span_type)[:500],
                depth=min(depth, 50),
                starts=(span.start_time_ns - begun) / 1e9,
                seconds=((span.end_time_ns or span.start_time_ns) - span.start_time_ns) / 1e9,
                status=str(span.status.status_code.value),
                facts=_facts(span),
            )
            yield from walk(span.span_id, depth + 1)

    yield from walk(None, 0)


def _facts(span: Any) -> dict[str, Any]:
    attributes: Mapping[str, Any] = span.attributes or {}
    found = {name.removeprefix("agent."): attributes[name] for name in _FACTS if name in attributes}
    for name, value in (("inputs", span.inputs), ("outputs", span.outputs)):
        if value not in (None, {}, ""):
            found[name] = value if len(str(value)) <= _SHOWN_CHARS else f"{str(value)[:200]} …"
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
