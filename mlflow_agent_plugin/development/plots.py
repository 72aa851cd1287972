"""Plots of one suite's results; a plot that would say nothing is left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.results import SuiteResult
from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.trust.evidence import CaseResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST_INTENTS = 25
CONFUSED_INTENTS = 12
BLUE, RED, GREY = "#2563a8", "#b42318", "#8a94a0"


def draw_plots(result: SuiteResult, turn_seconds: Sequence[float]) -> dict[str, Figure]:
    """Return the plots that make sense for these results, by name."""
    with_intent = [row for row in result.rows if row.expected_intent is not None]
    plots = {
        "outcomes": _outcomes(result.rows),
        "accuracy_by_intent": _accuracy_by_intent(with_intent),
        "confusion_of_the_worst_intents": _confusion(with_intent),
        "confidence": _confidence(with_intent),
        "latency": _latency(turn_seconds),
    }
    return {name: figure for name, figure in plots.items() if figure is not None}


def make_axes(width: float, height: float) -> tuple[Figure, Any]:
    """Return an empty plot and its axes; width and height in inches."""
    # Not pyplot: no global state, no display, safe in threads and servers.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _outcomes(rows: Sequence[CaseResult]) -> Figure | None:
    good = Counter(row.outcome for row in rows if row.success)
    bad = Counter(row.outcome for row in rows if not row.success)
    names = sorted(good | bad)
    if not names:
        return None
    figure, axes = make_axes(7, 0.5 * len(names) + 1)
    axes.barh(names, [good[name] for name in names], color=BLUE, label="as expected")
    axes.barh(
        names,
        [bad[name] for name in names],
        left=[good[name] for name in names],
        color=RED,
        label="failed",
    )
    axes.set_xlabel("cases")
    axes.legend(frameon=False)
    return figure


def _accuracy_by_intent(rows: Sequence[CaseResult]) -> Figure | None:
    seen: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        seen[str(row.expected_intent)].append(row.intent == row.expected_intent)
    if len(seen) < 2:
        return None
    worst = sorted(seen, key=lambda intent: (sum(seen[intent]) / len(seen[intent]), intent))
    names = worst[:WORST_INTENTS][::-1]
    rates = [sum(seen[name]) / len(seen[name]) for name in names]
    limits = [wilson_interval(sum(seen[name]), len(seen[name])) for name in names]
    errors = [
        [rate - low for rate, (low, _) in zip(rates, limits, strict=True)],
        [high - rate for rate, (_, high) in zip(rates, limits, strict=True)],
    ]
    figure, axes = make_axes(8, 0.28 * len(names) + 1)
    axes.barh(names, rates, xerr=errors, color=BLUE, ecolor=GREY)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"accuracy with 95% interval, {len(names)} worst of {len(seen)} intents")
    axes.tick_params(axis="y", labelsize=8)
    return figure


def _confusion(rows: Sequence[CaseResult]) -> Figure | None:
    wrong = Counter(
        (str(row.expected_intent), row.intent or "none")
        for row in rows
        if row.intent != row.expected_intent
    )
    if not wrong:
        return None
    pairs = wrong.most_common(CONFUSED_INTENTS)
    expected = sorted({pair[0] for pair, _ in pairs})
    seen = sorted({pair[1] for pair, _ in pairs})
    figure, axes = make_axes(0.5 * len(seen) + 4, 0.4 * len(expected) + 3)
    table = [[wrong[(row, column)] for column in seen] for row in expected]
    axes.imshow(table, cmap="Reds")
    for y, row in enumerate(table):
        for x, count in enumerate(row):
            if count:
                axes.text(x, y, str(count), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(seen)), seen, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(expected)), expected, fontsize=8)
    axes.set_xlabel("intent seen")
    axes.set_ylabel("intent expected")
    return figure


def _confidence(rows: Sequence[CaseResult]) -> Figure | None:
    right = [r.confidence for r in rows if r.confidence is not None and _is_right(r)]
    wrong = [r.confidence for r in rows if r.confidence is not None and not _is_right(r)]
    if len(right) + len(wrong) < 20:
        return None
    figure, axes = make_axes(7, 3)
    bins = [step / 20 for step in range(21)]
    axes.hist([right, wrong], bins=bins, stacked=True, color=[BLUE, RED])
    axes.legend(["intent right", "intent wrong"], frameon=False)
    axes.set_xlabel("confidence of the planner")
    axes.set_ylabel("cases")
    return figure


def _latency(turn_seconds: Sequence[float]) -> Figure | None:
    if len(turn_seconds) < 5:
        return None
    figure, axes = make_axes(7, 3)
    axes.hist([seconds * 1000 for seconds in turn_seconds], bins=50, color=BLUE)
    axes.set_xlabel("milliseconds for one turn of the agent")
    axes.set_ylabel("turns")
    return figure


def _is_right(row: CaseResult) -> bool:
    return row.intent == row.expected_intent
