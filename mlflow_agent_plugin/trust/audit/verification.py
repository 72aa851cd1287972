"""What checking an audit gives: every defect, and the first bad row by name."""

from __future__ import annotations

import html
from dataclasses import dataclass
from enum import Enum
from typing import Any

AT_END = 2**63 - 1
"""Position of what is missing at the end: after every row."""

MAX_PROBLEMS = 100


class AuditDefect(str, Enum):
    """What is wrong with a row."""

    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    FORGED_CHECKPOINT = "forged_checkpoint"
    UNSIGNED_WRITER = "unsigned_writer"


@dataclass(frozen=True)
class AuditProblem:
    """One defect.

    Attributes:
        row: Event id ``<writer>-<seq>``, or ``checkpoint <number>``.
        position: Row number at or after which it shows; larger than any row for a writer of whom
            nothing is left.
        order: Of what is cut off, the first: number of the first checkpoint that misses it.
    """

    defect: AuditDefect
    row: str
    message: str
    position: int = AT_END
    order: int = 0

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"defect": self.defect.value, "row": self.row, "message": self.message}


@dataclass(frozen=True)
class AuditAnchor:
    """A checkpoint as it was noted outside of the store."""

    number: int
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"number": self.number, "hash": self.hash}


@dataclass(frozen=True)
class AuditVerification:
    """The result of checking a whole audit.

    Attributes:
        ok: Nothing is wrong.
        events: Events seen.
        unsealed: Events no checkpoint covers yet: see what is not detected.
        first_bad: Name of the first bad row, None if `ok`.
        problems: Every defect found (at most 100), the first bad row first.
    """

    ok: bool
    events: int
    writers: int
    checkpoints: int
    unsealed: int
    first_bad: str | None
    problems: tuple[AuditProblem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "ok": self.ok,
            "events": self.events,
            "writers": self.writers,
            "checkpoints": self.checkpoints,
            "unsealed": self.unsealed,
            "first_bad": self.first_bad,
            "problems": [problem.to_dict() for problem in self.problems],
        }

    def __str__(self) -> str:
        counted = f"{self.events} events, {self.writers} writers, {self.checkpoints} checkpoints"
        if self.ok:
            return f"audit intact: {counted}, {self.unsealed} events not yet sealed"
        first = self.problems[0]
        return f"audit BROKEN at {self.first_bad} ({first.message}): {counted}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(problem.message)}</li>" for problem in self.problems)
        return f"<p>{html.escape(str(self))}</p><ul>{lines}</ul>"
