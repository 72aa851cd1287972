"""What goes into the planner's engine and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlflow_agent_plugin.entities import Outcome
from mlflow_agent_plugin.foundation.planner.playbook import ERROR_KINDS, ErrorKind
from mlflow_agent_plugin.foundation.planner.state import PlannerState


@dataclass(frozen=True)
class CallError:
    """Why a call did not run; `kind` is one of `ERROR_KINDS`."""

    kind: ErrorKind
    message: str
    tool: str = ""


@dataclass(frozen=True)
class CallResult:
    """What became of a call: its output, or an error."""

    call_id: str
    output: Any = None
    error: CallError | None = None


@dataclass(frozen=True)
class Call:
    """A tool call the planner wants; the caller gives it an id (`PlannerEngine.sent`)."""

    tool: str
    arguments: Mapping[str, Any]
    result: str
    escalation: bool = False


@dataclass(frozen=True)
class Answer:
    """Something to say: a prompt with its variables, and how the turn counts (None: as it went)."""

    prompt: str
    variables: Mapping[str, Any]
    outcome: Outcome | None


@dataclass(frozen=True)
class Move:
    """The next move and the state after it."""

    state: PlannerState
    action: Call | Answer


def collect_passages(results: Mapping[str, Any]) -> list[Any]:
    """Return the ``passages`` lists of all results, joined."""
    found: list[Any] = []
    for output in results.values():
        passages = output.get("passages") if isinstance(output, Mapping) else None
        if isinstance(passages, list):
            found.extend(passages)
    return found


def error_kind(value: Any) -> ErrorKind:
    """Return `value` if it is a kind of error, else ``failed``."""
    return cast("ErrorKind", value) if value in ERROR_KINDS else "failed"
