"""Plots as SVG a page holds itself: no script, readable in light and dark, with their numbers.

Rules:
- Colours are classes (`console.css`); nothing carries a style of its own, the page forbids it.
- What a plot shows can be read without seeing it: a label says the range, a table holds all of it.
- No value is a gap, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

Series = Mapping[str, Sequence["float | None"]]

_WIDTH, _HEIGHT = 520.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 8.0, 10.0, 22.0


def lines(
    title: str, labels: Sequence[str], series: Series, *, unit: str = "", first: str = "Day"
) -> Markup:
    """Return a figure with a line per series over `labels`; `first` says what these are."""
    top = _top(value for values in series.values() for value in values if value is not None)
    drawn = []
    for index, (name, values) in enumerate(series.items()):
        run: list[str] = []
        for place, value in enumerate(values):
            if value is None:
                drawn.append(_line(run, index))
                run = []
                continue
            x, y = _x(place, len(labels)), _y(value, top)
            run.append(f"{x:.1f},{y:.1f}")
            drawn.append(
                f'<circle class="dot s{index}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>'
                f"{escape(name)}, {escape(labels[place])}: {_spell(value, unit)}</title></circle>"
            )
        drawn.append(_line(run, index))
    return _figure(title, labels, series, unit, top, "".join(drawn), first=first)


def bars(title: str, labels: Sequence[str], series: Series, *, unit: str = "") -> Markup:
    """Return a figure with the series on top of one another, a bar for each of `labels`."""
    sums = [sum(values[place] or 0.0 for values in series.values()) for place in range(len(labels))]
    top = _top(sums)
    room = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    width = min(0.7 * room, 40.0)
    drawn = []
    for place in range(len(labels)):
        below = 0.0
        for index, (name, values) in enumerate(series.items()):
            value = values[place] or 0.0
            if value <= 0:
                continue
            y, base = _y(below + value, top), _y(below, top)
            drawn.append(
                f'<rect class="s{index}" x="{_x(place, len(labels)) - width / 2:.1f}" y="{y:.1f}"'
                f' width="{width:.1f}" height="{base - y:.1f}"><title>{escape(name)},'
                f" {escape(labels[place])}: {_spell(value, unit)}</title></rect>"
            )
            below += value
    return _figure(title, labels, series, unit, top, "".join(drawn))


def _line(points: Sequence[str], index: int) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="line s{index}" points="{" ".join(points)}"/>'


def _figure(
    title: str,
    labels: Sequence[str],
    series: Series,
    unit: str,
    top: float,
    drawn: str,
    *,
    first: str = "Day",
) -> Markup:
    ticks = "".join(
        f'<line class="grid" x1="{_LEFT:.0f}" x2="{_WIDTH - _RIGHT:.0f}" y1="{_y(value, top):.1f}"'
        f' y2="{_y(value, top):.1f}"/><text class="tick end" x="{_LEFT - 6:.0f}"'
        f' y="{_y(value, top) + 4:.1f}">{_spell(value, unit)}</text>'
        for value in (0.0, top / 2, top)
    )
    shown = {0, len(labels) - 1, (len(labels) - 1) // 2} if labels else set()
    names = "".join(
        f'<text class="tick mid" x="{_x(place, len(labels)):.1f}" y="{_HEIGHT - 5:.0f}">'
        f"{escape(labels[place])}</text>"
        for place in sorted(shown)
    )
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 10 10" width="10" height="10" aria-hidden="true">'
        f'<rect class="s{index}" width="10" height="10"/></svg> {escape(name)}</li>'
        for index, name in enumerate(series)
    )
    about = f"{title}: {_range(labels)}, from 0 to {_spell(top, unit)}; the numbers are below"
    return Markup(  # noqa: S704 - every text above and below is escaped
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(about)}">'
        f"{ticks}{names}{drawn}</svg>"
        f"{f'<ul class=legend>{legend}</ul>' if len(series) > 1 else ''}"
        f"<details><summary>Numbers</summary>{_table(title, labels, series, unit, first)}</details>"
        "</figure>"
    )


def _table(title: str, labels: Sequence[str], series: Series, unit: str, first: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in series)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{_spell(values[place], unit)}</td>" for values in series.values())
        + "</tr>"
        for place, label in enumerate(labels)
    )
    return (
        f'<div class="scroll"><table><caption class="hidden">{escape(title)}</caption><thead><tr>'
        f'<th scope="col">{escape(first)}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _range(labels: Sequence[str]) -> str:
    return f"{labels[0]} to {labels[-1]}" if labels else "nothing"


def _x(place: int, count: int) -> float:
    room = _WIDTH - _LEFT - _RIGHT
    return _LEFT + room * (place + 0.5) / max(count, 1)


def _y(value: float, top: float) -> float:
    room = _HEIGHT - _TOP - _BOTTOM
    return _TOP + room * (1 - value / top)


def _top(values: object) -> float:
    """Return a round number no value exceeds."""
    largest = max((float(v) for v in values), default=0.0)  # type: ignore[attr-defined]
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    size = 10.0 ** math.floor(math.log10(largest))
    return next(size * step for step in (1.0, 2.0, 4.0, 5.0, 10.0) if size * step >= largest)


def _spell(value: float | None, unit: str) -> str:
    if value is None:
        return "\N{EN DASH}"
    if unit == "rate":
        return f"{100 * value:.0f} %" if value * 100 >= 10 or value == 0 else f"{100 * value:.1f} %"
    number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number} {unit}".strip()
