"""The gate's answer: each requirement met, unmet or unknown, with why and what to do.

A report is `passed` only if it has results and all of them are met.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from html import escape
from typing import Any

EMERGENCY = "EMERGENCY"
"""First word of a note that something stands where the gate did not let it; shown in red."""

TOAST_CHARS = 900
"""Longest refusal message; MLflow's pages show it in a toast."""


class Status(str, Enum):
    """What became of one requirement."""

    MET = "met"
    UNMET = "unmet"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RequirementResult:
    """One requirement of the gate and how it came out.

    Attributes:
        kind: Kind of requirement, as in gate.yaml; ``content`` and ``request`` are always asked.
        title: The requirement in a few words.
        status: met, unmet or unknown.
        why: What was found.
        hint: What to do about it; empty when met.
    """

    kind: str
    title: str
    status: Status
    why: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-ready dictionary."""
        return {
            "kind": self.kind,
            "title": self.title,
            "status": self.status.value,
            "why": self.why,
            "hint": self.hint,
        }


@dataclass(frozen=True)
class GateReport:
    """May `slot` of model `name` point to `version`?

    Attributes:
        results: One per requirement.
        notes: What a reader should know though it changes nothing.
    """

    name: str
    version: int
    slot: str
    at: datetime
    results: tuple[RequirementResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True only if something was asked and all of it is met."""
        return bool(self.results) and all(item.status is Status.MET for item in self.results)

    @property
    def missing(self) -> tuple[RequirementResult, ...]:
        """The requirements that are not met."""
        return tuple(item for item in self.results if item.status is not Status.MET)

    def summary(self) -> str:
        """Return one line for a log or a tag."""
        if self.passed:
            return f"passed: {len(self.results)} met"
        kinds = ", ".join(dict.fromkeys(item.kind for item in self.missing))
        return f"refused: {len(self.missing)} unmet ({kinds})"

    def refusal(self) -> str:
        """Return the message a client gets: every unmet requirement and what to do, short."""
        head = (
            f"{self.slot} of {self.name} may not point to version {self.version}: "
            f"{len(self.missing)} of {len(self.results)} requirements are not met."
        )
        lines = [
            f"[{item.status.value}] {item.title}: {item.why}. {item.hint}".rstrip()
            for item in self.missing
        ]
        text = "\n".join([head, *lines])
        if len(text) <= TOAST_CHARS:
            return text
        lines = [f"[{item.status.value}] {item.title}" for item in self.missing]
        return "\n".join([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary that `from_dict` reads back."""
        return {
            "name": self.name,
            "version": self.version,
            "slot": self.slot,
            "at": self.at.isoformat(),
            "passed": self.passed,
            "summary": self.summary(),
            "results": [item.to_dict() for item in self.results],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GateReport:
        """Read what `to_dict` wrote; whether it passed is derived again, never believed."""
        return cls(
            name=data["name"],
            version=int(data["version"]),
            slot=data["slot"],
            at=datetime.fromisoformat(data["at"]),
            results=tuple(
                RequirementResult(
                    item["kind"], item["title"], Status(item["status"]), item["why"], item["hint"]
                )
                for item in data["results"]
            ),
            notes=tuple(data["notes"]),
        )

    def to_text(self) -> str:
        """Return the report as a plain table."""
        width = max((len(item.title) for item in self.results), default=0)
        rows = [
            f"  {item.status.value:<8}{item.title:<{width}}  {item.why}" for item in self.results
        ]
        head = f"{self.name} version {self.version} -> {self.slot}: {self.summary()}"
        return "\n".join([head, *rows, *(f"  note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        """Return the report as a table for a notebook."""
        colours = {Status.MET: "#1a7f37", Status.UNMET: "#b42318", Status.UNKNOWN: "#9a6700"}
        rows = "".join(
            f"<tr><td style='color:{colours[item.status]}'><b>{item.status.value}</b></td>"
            f"<td style='text-align:left'>{escape(item.title)}</td>"
            f"<td style='text-align:left'>{escape(item.why)}</td>"
            f"<td style='text-align:left'>{escape(item.hint)}</td></tr>"
            for item in self.results
        )
        notes = "".join(
            f"<p style='color:{colours[Status.UNMET]}'><b>{escape(note)}</b></p>"
            if note.startswith(EMERGENCY)
            else f"<p><small>{escape(note)}</small></p>"
            for note in self.notes
        )
        head = escape(f"{self.name} version {self.version} → {self.slot}: {self.summary()}")
        return (
            f"<p><b>{head}</b></p><table><thead><tr><th></th><th>Requirement</th><th>Found</th>"
            f"<th>What to do</th></tr></thead><tbody>{rows}</tbody></table>{notes}"
        )
