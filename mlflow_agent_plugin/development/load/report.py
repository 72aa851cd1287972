"""Plots and page of a load test; every text from outside is escaped."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlflow_agent_plugin.development.load.profile import LoadProfile
from mlflow_agent_plugin.development.pages import figure, png, wrap_page
from mlflow_agent_plugin.development.plots import BLUE, GREY, RED, make_axes
from mlflow_agent_plugin.entities.statistics import percentile
from mlflow_agent_plugin.trust.evidence import LoadLevel, LoadRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = (
    "level", "requests", "answers/s", "p50", "p95", "p99", "max", "failed", "429s", "attempts",
    "tool calls", "tools limited", "tokens/s",
)  # fmt: skip
BINS = 120


def level_rows(levels: Sequence[LoadLevel]) -> list[tuple[str, ...]]:
    """Return the levels as people read them."""
    return [
        (
            _name(level),
            str(level.requests),
            f"{level.throughput:.1f}",
            *(
                f"{seconds * 1000:.0f} ms"
                for seconds in (
                    level.p50_seconds, level.p95_seconds, level.p99_seconds, level.max_seconds,
                )
            ),
            f"{level.errors} ({level.error_rate:.1%})",
            str(level.limited),
            f"{level.attempts / level.requests:.2f} each" if level.requests else "0",
            str(level.tool_calls),
            str(level.tool_limited),
            f"{(level.input_tokens + level.output_tokens) / level.seconds:.0f}",
        )
        for level in levels
    ]  # fmt: skip


def draw_load(
    profile: LoadProfile, requests: Sequence[LoadRequest], levels: Sequence[LoadLevel]
) -> dict[str, bytes]:
    """Return the plots as PNG files by name."""
    plots = {"over_time": png(_over_time(profile, requests))}
    if len(levels) > 1:
        plots["levels"] = png(_by_level(levels))
    return plots


def render_load_report(
    profile: LoadProfile,
    requests: Sequence[LoadRequest],
    levels: Sequence[LoadLevel],
    plots: Mapping[str, bytes],
    *,
    agent: str,
    agent_digest: str,
    run_id: str,
    url: str,
) -> str:
    """Return the report as one HTML page that needs nothing else."""
    facts = (
        f"Agent <code>{html.escape(agent_digest)}</code><br>Profile "
        f"<code>{html.escape(profile.digest)}</code><br>Run <code>{html.escape(run_id)}</code><br>"
        f"{len(requests)} requests to {html.escape(url)}"
    )
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td class=n>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in level_rows(levels)
    )
    counted = Counter(
        f"{request.result}, HTTP {request.status}" if request.status else request.result
        for request in requests
        if request.result != "ok"
    )
    failed = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{count}</td></tr>"
        for name, count in counted.most_common()
    )
    parts = [
        f"<h1>{html.escape(agent)} under load: {html.escape(profile.name)}</h1><p>{facts}</p>",
        f"<table><caption>Levels that were held</caption><tr>{head}</tr>{body}</table>",
        f"<table><caption>What failed, ramps included</caption>{failed}</table>"
        if failed
        else "<p>No request failed.</p>",
        *(figure(name, data) for name, data in plots.items()),
    ]
    return wrap_page(f"{agent}: load {profile.name}", "".join(parts))


def _over_time(profile: LoadProfile, requests: Sequence[LoadRequest]) -> Figure:
    total = sum(phase.seconds for phase in profile.phases())
    width = max(total / BINS, 0.5)
    bins: dict[int, list[LoadRequest]] = {}
    for request in requests:
        bins.setdefault(int(request.due // width), []).append(request)
    at = sorted(bins)
    times = [bin_ * width for bin_ in at]
    plot, axes = make_axes(9, 3.5)
    for share, colour in ((0.5, BLUE), (0.95, RED)):
        values = [percentile([r.seconds * 1000 for r in bins[bin_]], share) for bin_ in at]
        axes.plot(times, values, color=colour, label=f"p{share * 100:.0f}, ms")
    axes.set_xlabel("seconds since the start (shaded: ramps)")
    axes.set_ylabel("milliseconds")
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    right.spines[["top"]].set_visible(False)
    rates = [sum(r.result == "ok" for r in bins[bin_]) / width for bin_ in at]
    right.plot(times, rates, color=GREY, linestyle=":", label="answers/s")
    bad = [sum(r.result != "ok" for r in bins[bin_]) / width for bin_ in at]
    if any(bad):
        right.plot(times, bad, color=RED, linestyle=":", label="failures/s")
    right.set_ylim(bottom=0)
    begins = 0.0
    for phase in profile.phases():
        if not phase.steady:
            axes.axvspan(begins, begins + phase.seconds, color=GREY, alpha=0.15)
        begins += phase.seconds
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], frameon=False)
    return plot


def _name(level: LoadLevel) -> str:
    return f"{level.concurrency} users" if level.rate is None else f"{level.rate:g}/s"


def _by_level(levels: Sequence[LoadLevel]) -> Figure:
    ordered = sorted(levels, key=lambda level: level.concurrency)
    users = [level.concurrency for level in ordered]
    plot, axes = make_axes(7, 3.5)
    for name, colour in (("p50", BLUE), ("p95", RED), ("p99", GREY)):
        values = [getattr(level, f"{name}_seconds") * 1000 for level in ordered]
        axes.plot(users, values, marker="o", color=colour, label=name)
    for level in ordered:
        spot = (level.concurrency, level.p99_seconds * 1000)
        axes.annotate(_name(level), spot, xytext=(0, 6), textcoords="offset points", ha="center")
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel("requests in flight (of an open level: on average, rounded down)")
    axes.set_ylabel("milliseconds")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return plot
