"""Plots of a version's evidence beside the incumbent's.

Rules:
- Interval plots show both limits of the 95% interval (Wilson) of a rate, from its cases.
- What a case or an answer took is shown as "so many of them took at most this": whole
  distributions, no averages that hide a tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from mlflow_agent_plugin.entities.statistics import percentile, wilson_interval
from mlflow_agent_plugin.interaction.web.console.plots import lines

if TYPE_CHECKING:
    from mlflow_agent_plugin.registry.facts import Measure
    from mlflow_agent_plugin.registry.overview import CaseComparison, PairedOutcome

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_KINDS = (
    ("right", "right in both"),
    ("fixed", "fixed"),
    ("broken", "broken"),
    ("wrong", "wrong in both"),
)


def interval_plot(candidate: Measure | None, incumbent: Measure | None) -> Markup:
    """Return a rate of both versions on a line from 0 to 100%, each with its interval."""
    drawn, said = [], []
    for measure, name, kind, y in (
        (candidate, "this version", "ours", 6),
        (incumbent, "the incumbent", "theirs", 13),
    ):
        if measure is None or measure.successes is None or measure.n == 0:
            continue
        low, high = wilson_interval(measure.successes, measure.n)
        drawn.append(
            f'<line class="span {kind}" x1="{_at(low)}" x2="{_at(high)}" y1="{y}" y2="{y}"/>'
            f'<circle class="{kind}" cx="{_at(measure.value)}" cy="{y}" r="2.5"/>'
        )
        said.append(f"{name} {measure.value:.1%}, 95% interval {low:.1%} to {high:.1%}")
    if not drawn:
        return Markup()
    return Markup(  # noqa: S704 - numbers and our own words
        '<svg class="dots" viewBox="0 0 104 20" width="156" height="30" role="img" '
        f'aria-label="{escape("; ".join(said))}"><line class="axis" x1="2" x2="102" y1="18" '
        f'y2="18"/>{"".join(drawn)}</svg>'
    )


def outcome_bar(outcome: PairedOutcome, most: int) -> Markup:
    """Return the cases of one category as one bar, as long as they are many."""
    x, drawn = 0.0, []
    for kind, _ in _KINDS:
        width = 100.0 * getattr(outcome, kind) / max(most, 1)
        if width:
            drawn.append(
                f'<rect class="o-{kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"/>'
            )
        x += width
    said = ", ".join(f"{getattr(outcome, kind)} {name}" for kind, name in _KINDS)
    return Markup(  # noqa: S704 - numbers and our own words
        '<svg class="outcomes" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}">{"".join(drawn)}</svg>'
    )


def distribution_plots(found: CaseComparison, version: int, incumbent: int | None) -> list[Markup]:
    """Return what cases cost and how fast answers under load were, for both versions."""
    names = (f"version {version}", f"version {incumbent}")
    plots = []
    for suite in found.suites:
        for what, unit, values in (
            ("tokens", "", suite.tokens),
            ("US dollars", "", suite.costs),
        ):
            series = _spread(values, names)
            if series:
                title = f"{suite.suite}: {what} of a case, at most"
                plots.append(lines(title, _labels(), series, unit=unit, first="Share of cases"))
    for profile, levels in found.loads.items():
        at = sorted({level.concurrency for each in levels for level in each})
        series = {}
        for name, each in zip(names, levels, strict=True):
            if each:
                known = {level.concurrency: level.p95_seconds for level in each}
                series[name] = [known.get(number) for number in at]
        title = f"{profile}: seconds within which 95 of 100 answers came"
        labels = [f"{number} at once" for number in at]
        plots.append(lines(title, labels, series, first="Load"))
    return plots


def _spread(
    values: tuple[Sequence[float], Sequence[float]], names: tuple[str, str]
) -> dict[str, Sequence[float | None]]:
    return {
        name: [percentile(each, share) for share in _SHARES]
        for name, each in zip(names, values, strict=True)
        if each
    }


def _labels() -> list[str]:
    return [f"{share:.0%}" for share in _SHARES]


def _at(rate: float) -> str:
    return f"{2 + 100 * min(max(rate, 0.0), 1.0):.2f}"


def outcome_kinds() -> Sequence[tuple[str, str]]:
    """Return kinds of paired outcomes with their names, for a legend."""
    return _KINDS
