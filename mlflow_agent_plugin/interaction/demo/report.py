"""What the demo says: progress while it runs, a table at its end, JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Step:
    """One step of the demo."""

    name: str
    result: str = ""
    seconds: float = 0.0


@dataclass
class DemoResult:
    """Everything the demo did.

    Attributes:
        steps: Steps in order.
        numbers: Measured values by name; rates with their 95% interval.
        look: How to look at what it made.
    """

    steps: list[Step] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    look: list[str] = field(default_factory=list)
    ok: bool = False

    @property
    def seconds(self) -> float:
        """Wall-clock time of all steps."""
        return sum(step.seconds for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "steps": [
                {"step": step.name, "result": step.result, "seconds": round(step.seconds, 1)}
                for step in self.steps
            ],
            "numbers": self.numbers,
            "look": self.look,
        }

    def save(self, path: Path) -> None:
        """Write the result as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str))


class Teller:
    """Shows steps as they happen.

    Args:
        quiet: Show nothing (the result is printed as JSON).
    """

    def __init__(self, result: DemoResult, *, quiet: bool) -> None:
        from rich.console import Console

        self._result = result
        self.console = Console(quiet=quiet, highlight=False)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step and show what came of it."""
        step = Step(name)
        self._result.steps.append(step)
        started = time.perf_counter()
        with self.console.status(f"{len(self._result.steps):2}  {name} …"):
            try:
                yield step
            finally:
                step.seconds = time.perf_counter() - started
        self.console.print(
            f"[green]{len(self._result.steps):2}[/]  {name}  [dim]{step.seconds:.1f} s[/]"
        )
        self.note(step.result)

    def note(self, text: str) -> None:
        """Show a detail of the current step, word for word."""
        from rich.text import Text

        for line in text.splitlines():
            self.console.print(Text(f"      {line}", style="dim"))

    def table(self) -> None:
        """Show the table of all steps and how to look at the result."""
        from rich.text import Text

        self.console.print()
        self.console.print(steps_table(self._result))
        for line in self._result.look:
            self.console.print(Text(line), soft_wrap=True)


def steps_table(result: DemoResult) -> Table:
    """Return each step with its result and time as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="The whole loop", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("step")
    table.add_column("result", max_width=90)
    table.add_column("seconds", justify="right")
    for number, step in enumerate(result.steps, start=1):
        table.add_row(
            str(number), Text(step.name), Text(_short(step.result)), f"{step.seconds:.1f}"
        )
    table.add_section()
    table.add_row("", "total", "", f"{result.seconds:.1f}")
    return table


def _short(text: str, limit: int = 260) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
