"""One check of `mlflow-agents doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mlflow_agent_plugin.errors import AgentError

_MOST_CHARS = 200


class Health(str, Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What was looked at.
        found: What is there.
        todo: What to do about it; empty when nothing is.
    """

    name: str
    status: Health
    found: str
    todo: str = ""

    @property
    def failed(self) -> bool:
        """True if something cannot work."""
        return self.status is Health.FAIL

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-ready dictionary."""
        return {
            "name": self.name,
            "status": self.status.value,
            "found": self.found,
            "todo": self.todo,
        }


def in_one_line(error: Exception) -> str:
    """Return what an error says, short and without its hint."""
    text = str(error)
    if isinstance(error, AgentError):
        text = error.problem if error.where is None else f"{error.where}: {error.problem}"
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0][:_MOST_CHARS]
