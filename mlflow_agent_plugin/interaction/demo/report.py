"""What the demo says: progress while it runs, a table at its end, JSON for machines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


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
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title="The whole loop", box=box.SIMPLE_HEAD, title_justify="left")
        for name, justify in (("", "right"), ("step", "left"), ("result", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("seconds", justify="right")
        for number, step in enumerate(self._result.steps, start=1):
            table.add_row(str(number), Text(step.name), Text(step.result), f"{step.seconds:.1f}")
        table.add_section()
        table.add_row("", "total", "", f"{self._result.seconds:.1f}")
        self.console.print()
        self.console.print(table)
        for line in self._result.look:
            self.console.print(Text(line))
