r"""What a command answers: data for machines; lines and tables for people.

Rules:
- A command returns one `Answer` and prints nothing itself: so `--json` is one document, always.
- What users and models wrote is shown, never interpreted: control characters, terminal escapes and
  invisible direction marks appear as ``\x1b``, so that nobody approves what he does not see.
- On a terminal a table that does not fit is shown as records; elsewhere a row is one line.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Rows under a title; a table without rows says so."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Answer:
    """What a command found out.

    Attributes:
        data: JSON-ready value for ``--json``.
        shown: Lines and tables for people, in order.
        failed: The process ends with 1: the answer is "no".
    """

    data: Any
    shown: Sequence[str | Table] = field(default_factory=tuple)
    failed: bool = False


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Print `answer` on standard output."""
    if as_json:
        print_json(answer.data)
        return
    for part in answer.shown:
        if isinstance(part, Table):
            _print_table(part)
        else:
            click.echo(printable(part))


def print_json(value: Any) -> None:
    """Print `value` as one JSON document."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(plain(value), indent=2)
    click.echo(text)


def plain(value: Any) -> Any:
    """Return `value` with JSON types only; numbers JSON does not have become null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def printable(text: str) -> str:
    """Return `text` with everything a terminal would interpret or hide written out."""
    return "".join(
        letter
        if letter.isprintable() or letter in "\n\t"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


# --- tables --------------------------------------------------------------------------------------

_STYLES = {
    "green": ("met", "ok", "allow", "approved", "executed", "passed", "stable", "same", "finished"),
    "yellow": ("unknown", "warn", "needs_approval", "waiting", "changed", "expired", "in_doubt"),
    "red": ("unmet", "fail", "failed", "deny", "denied", "rejected", "stands_out", "breaking"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}
_STATUS_COLUMNS = frozenset({"status", "state", "decision", "result"})
_SHORT_COLUMN_CHARS = 20
_LEAST_COLUMN_CHARS = 16


def _print_table(table: Table) -> None:
    from rich.console import Console

    if not table.rows:
        click.echo(f"{table.title}: none")
        return
    cells = [[_cell(item) for item in row] for row in table.rows]
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        widths = _widths(table.columns, cells)
        console = Console(file=sys.stdout, width=sum(widths) + 3 * len(widths))
    elif _least_width(table.columns, cells) > console.width:
        _print_records(console, table, cells)
        return
    _print_grid(console, table, cells)


def _print_grid(console: Console, table: Table, cells: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, width in zip(table.columns, _widths(table.columns, cells), strict=True):
        short = width <= _SHORT_COLUMN_CHARS
        grid.add_column(Text(column), overflow="fold", min_width=width if short else None)
    for row in cells:
        # Text, not markup: a "[red]" that somebody wrote stays a "[red]".
        grid.add_row(
            *(
                Text(item, style=_style(column, item))
                for column, item in zip(table.columns, row, strict=True)
            )
        )
    with console.capture() as captured:
        console.print(Text(table.title, style="bold"))
        console.print(grid)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(line for line in lines if line))


def _print_records(console: Console, table: Table, cells: list[list[str]]) -> None:
    from rich.text import Text

    console.print(Text(f"{table.title} ({len(cells)})", style="bold"))
    for row in cells:
        console.print()
        for column, item in zip(table.columns, row, strict=True):
            if item:
                style = _style(column, item)
                console.print(Text.assemble((f"{column}: ", "dim"), (item, style)))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(plain(value)))


def _style(column: str, text: str) -> str:
    return _STYLE_OF.get(text, "") if column in _STATUS_COLUMNS else ""


def _widths(columns: Sequence[str], cells: list[list[str]]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(cell_len(line) for row in [columns, *cells] for line in (row[at].splitlines() or [""]))
        for at in range(len(columns))
    ]


def _least_width(columns: Sequence[str], cells: list[list[str]]) -> int:
    """Return the narrowest screen on which the grid can still be read."""
    return sum(
        (width if width <= _SHORT_COLUMN_CHARS else _LEAST_COLUMN_CHARS) + 2
        for width in _widths(columns, cells)
    )
