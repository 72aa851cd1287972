"""Candidate against incumbent, on the same cases.

Rules:
- Only cases both played are compared, pair by pair; the others are counted and named.
- A rate is compared by the exact McNemar test and Tango's interval, a mean by the bootstrap.
- "Not worse" is a claim of its own: it holds when the whole interval lies above ``-margin``. That
  nothing significant was found proves nothing; the smallest difference these cases could have
  shown stands beside the verdict.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.statistics import (
    MeanDifference,
    NonInferiority,
    bootstrap_mean_difference,
    minimum_detectable_difference,
    non_inferiority,
)
from mlflow_agent_plugin.errors import SuiteError

if TYPE_CHECKING:
    from rich.table import Table

    from mlflow_agent_plugin.trust import CaseResult

DEFAULT_MARGIN = 0.02
"""Largest loss of a rate that counts as "not worse", unless said otherwise."""


@dataclass(frozen=True)
class RateComparison:
    """One rate of both.

    Attributes:
        candidate: The candidate's rate.
        incumbent: The incumbent's rate.
        verdict: Non-inferiority with the paired difference.
        detectable: Smallest difference so many cases would show with 80% power.
    """

    name: str
    candidate: float
    incumbent: float
    verdict: NonInferiority
    detectable: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "candidate": self.candidate,
            "incumbent": self.incumbent,
            "detectable": self.detectable,
            **self.verdict.to_dict(),
        }


@dataclass(frozen=True)
class Comparison:
    """Two results of one suite, compared.

    Attributes:
        suite: Name of the suite.
        n: Cases both played.
        rates: Compared rates by name.
        means: Compared means by name.
        fixed: Cases only the candidate solves.
        broken: Cases only the incumbent solves.
        unpaired: Cases only one of them played.
    """

    suite: str
    n: int
    rates: Mapping[str, RateComparison]
    means: Mapping[str, MeanDifference]
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    unpaired: tuple[str, ...]

    @property
    def not_worse(self) -> bool:
        """Every compared rate with cases to judge it on is shown to be not worse."""
        judged = [rate.verdict for rate in self.rates.values() if rate.verdict.difference.n]
        return bool(judged) and all(verdict.holds for verdict in judged)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "suite": self.suite,
            "n": self.n,
            "not_worse": self.not_worse,
            "rates": {name: rate.to_dict() for name, rate in self.rates.items()},
            "means": {name: mean.to_dict() for name, mean in self.means.items()},
            "fixed": list(self.fixed),
            "broken": list(self.broken),
            "unpaired": list(self.unpaired),
        }

    def to_table(self) -> Table:
        """Return a table for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.suite}: candidate against incumbent, {self.n} cases")
        for at, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if at == 0 else "right")
        for row in self.table_rows():
            table.add_row(*row)
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.table_rows()
        )
        caption = f"{html.escape(self.suite)}: candidate against incumbent, {self.n} cases"
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"

    def __str__(self) -> str:
        parts = [
            f"{name} {rate.incumbent:.3f} -> {rate.candidate:.3f} "
            f"[{rate.verdict.difference.low:+.3f}, {rate.verdict.difference.high:+.3f}]"
            for name, rate in self.rates.items()
        ]
        verdict = "not worse" if self.not_worse else "not shown to be not worse"
        return f"{self.suite}: {verdict} on {self.n} cases; " + ", ".join(parts)

    def table_rows(self) -> list[tuple[str, ...]]:
        """Return a row for each measure, in the columns of `HEADINGS`."""
        rows: list[tuple[str, ...]] = []
        for name, rate in self.rates.items():
            difference = rate.verdict.difference
            rows.append(
                (
                    name,
                    f"{rate.candidate:.4f}",
                    f"{rate.incumbent:.4f}",
                    f"{difference.difference:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]",
                    f"{difference.p_value:.3g}",
                    f"{'yes' if rate.verdict.holds else 'no'} (margin {rate.verdict.margin:g})",
                    f"{rate.detectable:.4f}",
                )
            )
        for name, mean in self.means.items():
            interval = f"{mean.difference:+.4g} [{mean.low:+.4g}, {mean.high:+.4g}]"
            rows.append((name, "", "", interval, "", "", ""))
        return rows


HEADINGS = (
    "measure",
    "candidate",
    "incumbent",
    "difference (95%)",
    "p (McNemar)",
    "not worse",
    "detectable",
)
"""Columns of a comparison's table; *detectable* is the smallest difference so many cases show."""

_RATES: dict[str, Callable[[CaseResult], bool | None]] = {
    "task_success": lambda row: row.success,
    "intent_accuracy": lambda row: (
        None if row.expected_intent is None else row.intent == row.expected_intent
    ),
}

_MEANS: dict[str, Callable[[CaseResult], float]] = {
    "unsafe_calls": lambda row: row.unsafe_calls,
    "steps": lambda row: row.steps,
    "tokens": lambda row: row.input_tokens + row.output_tokens,
    "cost_usd": lambda row: row.cost_usd,
}


def compare(
    candidate: Sequence[CaseResult],
    incumbent: Sequence[CaseResult],
    *,
    margin: float = DEFAULT_MARGIN,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two results of one suite, case by case.

    Args:
        candidate: Rows of the candidate (`SuiteResult.rows`, or `load_results`).
        incumbent: Rows of the incumbent.
        margin: Largest loss of a rate that counts as "not worse".
        confidence: Two-sided level of the intervals.
        seed: Seed of the bootstrap.

    Raises:
        SuiteError: They are of different suites, or have no case in common.
    """
    names = {row.suite for row in (*candidate, *incumbent)}
    if len(names) != 1:
        raise SuiteError(
            f"results of {', '.join(sorted(names)) or 'no suite'} cannot be compared",
            hint="Give the results of one suite.",
        )
    left = {row.case_id: row for row in candidate}
    right = {row.case_id: row for row in incumbent}
    pairs = [(left[case], right[case]) for case in sorted(left.keys() & right.keys())]
    if not pairs:
        raise SuiteError("the two results have no case in common", where=names.pop())
    return Comparison(
        suite=names.pop(),
        n=len(pairs),
        rates={
            name: _compare_rate(name, judge, pairs, margin, confidence)
            for name, judge in _RATES.items()
        },
        means={
            name: bootstrap_mean_difference(
                [value(a) for a, _ in pairs],
                [value(b) for _, b in pairs],
                seed=seed,
                confidence=confidence,
            )
            for name, value in _MEANS.items()
        },
        fixed=tuple(a.case_id for a, b in pairs if a.success and not b.success),
        broken=tuple(a.case_id for a, b in pairs if b.success and not a.success),
        unpaired=tuple(sorted(left.keys() ^ right.keys())),
    )


def _compare_rate(
    name: str,
    judge: Callable[[CaseResult], bool | None],
    pairs: Sequence[tuple[CaseResult, CaseResult]],
    margin: float,
    confidence: float,
) -> RateComparison:
    judged = [
        (a, b)
        for a, b in ((judge(left), judge(right)) for left, right in pairs)
        if a is not None and b is not None
    ]
    n = len(judged)
    only_a = sum(a and not b for a, b in judged)
    only_b = sum(b and not a for a, b in judged)
    return RateComparison(
        name=name,
        candidate=sum(a for a, _ in judged) / n if n else 0.0,
        incumbent=sum(b for _, b in judged) / n if n else 0.0,
        verdict=non_inferiority(only_a, only_b, n, margin=margin, confidence=confidence),
        detectable=minimum_detectable_difference(
            n, discordance=(only_a + only_b) / n if n else 0.0, confidence=confidence
        ),
    )
