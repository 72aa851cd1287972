"""What a look at the environment answers: plain values, without any I/O.

Rules:
- A part that could not be read is *unknown*: never "unchanged", never "changed".
- The whole has changed as soon as one part has; it is unchanged only when every part was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from html import escape
from typing import Any

from mlflow_agent_plugin.errors import DriftInputError


class PartKind(str, Enum):
    """What is looked at."""

    TOOL = "tool"
    KNOWLEDGE = "knowledge"


class PartStatus(str, Enum):
    """How a part stands to what was pinned.

    COMPATIBLE: it changed, and everything the contract promises still holds. CHANGED: it no longer
    is what was pinned. UNKNOWN: it could not be read.
    """

    SAME = "same"
    COMPATIBLE = "compatible"
    CHANGED = "changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class EnvironmentPart:
    """One tool, or the knowledge base.

    Attributes:
        name: The tool's name, or the folder of the knowledge base.
        source: Where it was looked for, without passwords.
        reasons: Why it changed, or why it is unknown, one sentence each.
        notes: What else is different.
    """

    kind: PartKind
    name: str
    status: PartStatus
    source: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the part as one line."""
        why = "; ".join(self.reasons or self.notes)
        return f"{self.kind.value} {self.name} {self.status.value}{f': {why}' if why else ''}"


@dataclass(frozen=True)
class EnvironmentVerdict:
    """How the environment stands to what a version was built against.

    Attributes:
        agent: The agent's name.
        agent_digest: Digest of the bundle that holds the pins.
        checked_at: When, ISO 8601.
        parts: Every part that was looked at.
        unwatched: Tools of the agent no source was given for.
    """

    agent: str
    agent_digest: str
    checked_at: str
    parts: tuple[EnvironmentPart, ...]
    unwatched: tuple[str, ...] = ()

    @property
    def changed(self) -> bool | None:
        """True if a part changed, False if none did, None if that is not known."""
        statuses = {part.status for part in self.parts}
        if PartStatus.CHANGED in statuses:
            return True
        if PartStatus.UNKNOWN in statuses or not self.parts:
            return None
        return False

    def with_status(self, status: PartStatus) -> tuple[EnvironmentPart, ...]:
        """Return the parts that have `status`."""
        return tuple(part for part in self.parts if part.status is status)

    def summary(self) -> str:
        """Return the verdict as one line for a log."""
        if not self.parts:
            return "environment unknown: nothing was looked at"
        word = {True: "changed", False: "as pinned", None: "unknown"}[self.changed]
        told = [
            *self.with_status(PartStatus.CHANGED),
            *self.with_status(PartStatus.UNKNOWN),
            *self.with_status(PartStatus.COMPATIBLE),
        ]
        why = "; ".join(part.line() for part in told)
        return f"environment {word}{f': {why}' if why else f' ({len(self.parts)} parts)'}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` reads it back."""
        parts = [
            {
                **asdict(part),
                "kind": part.kind.value,
                "status": part.status.value,
                "reasons": list(part.reasons),
                "notes": list(part.notes),
            }
            for part in self.parts
        ]
        return {
            "agent": self.agent,
            "agent_digest": self.agent_digest,
            "checked_at": self.checked_at,
            "changed": self.changed,
            "parts": parts,
            "unwatched": list(self.unwatched),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvironmentVerdict:
        """Read what `to_dict` returned.

        Raises:
            DriftInputError: `values` is no such verdict.
        """
        try:
            parts = tuple(
                EnvironmentPart(
                    PartKind(part["kind"]),
                    str(part["name"]),
                    PartStatus(part["status"]),
                    str(part["source"]),
                    tuple(part["reasons"]),
                    tuple(part["notes"]),
                )
                for part in values["parts"]
            )
            return cls(
                str(values["agent"]),
                str(values["agent_digest"]),
                str(values["checked_at"]),
                parts,
                tuple(values["unwatched"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DriftInputError(f"this is no environment verdict: {error}") from error

    def _repr_html_(self) -> str:
        """Show the verdict as a table in a notebook."""
        return verdict_html(self)


_COLOURS = {
    PartStatus.SAME: "#1a7f37",
    PartStatus.COMPATIBLE: "#0969da",
    PartStatus.CHANGED: "#cf222e",
    PartStatus.UNKNOWN: "#9a6700",
}


def verdict_html(verdict: EnvironmentVerdict) -> str:
    """Return the verdict as an HTML fragment; every value is escaped."""
    rows = "".join(
        f"<tr><td>{part.kind.value}</td><td>{escape(part.name)}</td>"
        f"<td style='color:{_COLOURS[part.status]}'>{part.status.value}</td>"
        f"<td>{escape(part.source)}</td>"
        f"<td style='text-align:left'>{escape('; '.join((*part.reasons, *part.notes)))}</td></tr>"
        for part in verdict.parts
    )
    unwatched = (
        f"<p>No source given for: {escape(', '.join(verdict.unwatched))}</p>"
        if verdict.unwatched
        else ""
    )
    title = verdict.summary().split(":")[0].capitalize()
    return (
        "<div style='font-family:sans-serif;padding:12px'>"
        f"<p><b>{escape(title)}</b> {escape(verdict.agent)}, content "
        f"{escape(verdict.agent_digest[:19])}…</p>"
        "<table style='border-spacing:10px 2px'><tr><th>part</th><th>name</th><th>status</th>"
        f"<th>source</th><th style='text-align:left'>why</th></tr>{rows}</table>{unwatched}</div>"
    )
