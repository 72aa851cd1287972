r"""A text diff a reviewer can trust and read.

Rules:
- What cannot be seen is written out: control, format and direction characters appear as ``\u202e``
  does here, so a bundle can neither hide a change nor drive the terminal it is shown on.
- It is bounded, in lines and in line length, and says so when it was cut.
- Lines end at line feeds only; a changed line ending and a missing last line feed show.
"""

from __future__ import annotations

import difflib
import unicodedata

MAX_LINES_SHOWN = 400
MAX_LINE_CHARS = 500
MAX_LINES_COMPARED = 10_000
MAX_BYTES_COMPARED = 1024 * 1024
_CONTEXT_LINES = 3
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def decode(data: bytes) -> str | None:
    """Return `data` as text, None if it is binary."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def unified(old: str, new: str, *, old_name: str, new_name: str) -> tuple[str, str | None]:
    """Compare two texts line by line.

    Returns:
        The unified diff, and a note if it was cut short or not made.
    """
    before, after = _lines(old), _lines(new)
    if max(len(before), len(after)) > MAX_LINES_COMPARED or (
        max(len(old), len(new)) > MAX_BYTES_COMPARED
    ):
        return "", "too long to be compared line by line"
    lines = list(
        difflib.unified_diff(
            before, after, visible(old_name), visible(new_name), n=_CONTEXT_LINES, lineterm=""
        )
    )
    note = None
    if len(lines) > MAX_LINES_SHOWN:
        note = f"{len(lines) - MAX_LINES_SHOWN} more lines of the diff are not shown"
        lines = lines[:MAX_LINES_SHOWN]
    cut = [_cut(line) for line in lines]
    if cut != lines:
        note = f"{note}; long lines are cut" if note else "long lines are cut"
    return "\n".join(cut), note


def visible(text: str) -> str:
    """Write out every character that would not show as itself; tabs stay."""
    return "".join(
        letter
        if letter == "\t" or unicodedata.category(letter) not in _HIDDEN
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _lines(text: str) -> list[str]:
    """Split at line feeds; the last line says so if it has none."""
    if not text:
        return []
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += " (no line feed at the end)"
    return [visible(line) for line in lines]


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + " …"
