"""The verdict as HTML: for notebooks, and on top of Evidently's report."""

from __future__ import annotations

from html import escape

from mlflow_agent_plugin.observability.drift.verdict import ColumnStatus, DriftVerdict

_COLOURS = {
    ColumnStatus.STABLE: "#1a7f37",
    ColumnStatus.STANDS_OUT: "#cf222e",
    ColumnStatus.UNKNOWN: "#9a6700",
    ColumnStatus.NOT_COMPARED: "#57606a",
}


_WORDS = {True: ("drift confirmed", "#cf222e"), False: ("no drift", "#1a7f37")}
_BAR_PIXELS = 90
_FULL_EFFECT = 0.25
"""The stability index at which a bar is full; 0.25 is what the trade calls a large shift."""


def verdict_html(verdict: DriftVerdict) -> str:
    """Return the verdict as an HTML fragment; every value is escaped."""
    unsure = ("drift suspected" if verdict.suspected else "unknown", "#9a6700")
    word, colour = _WORDS.get(verdict.drifted, unsure) if verdict.drifted is not None else unsure
    window, confirmed = verdict.window, [c.name for c in verdict.columns if c.confirmed]
    rows = "".join(
        f"<tr><td>{escape(column.name)}</td>"
        f"<td style='color:{_COLOURS[column.status]}'>"
        f"{escape(column.status.value.replace('_', ' '))}"
        f"{f', {column.streak} in a row' if column.streak > 1 else ''}</td>"
        f"<td style='text-align:right'>{_number(column.adjusted_p, '.2g')}</td>"
        f"<td>{_bar(column.effect, verdict.rules.effect_floor, _COLOURS[column.status])}</td>"
        f"<td style='text-align:right'>{column.n_reference}</td>"
        f"<td style='text-align:right'>{column.n_current}</td>"
        f"<td style='text-align:left'>{escape(column.reason)}</td></tr>"
        for column in verdict.columns
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    facts = (
        f"{window.sessions} sessions ({window.rows} requests) against {window.reference_sessions}, "
        f"{escape(window.start or '?')} to {escape(window.end or '?')}"
    )
    named = f" in {escape(', '.join(confirmed))}" if confirmed else ""
    return (
        "<div style='font-family:sans-serif;padding:12px'>"
        f"<p><span style='background:{colour};color:#fff;border-radius:4px;padding:3px 9px'>"
        f"<b>{word.capitalize()}</b></span>{named} &nbsp; {facts}</p><ul>{reasons}</ul>"
        f"<p>{escape(verdict.power)}</p>"
        "<table style='border-spacing:10px 2px'><tr><th>column</th><th>status</th>"
        "<th>adjusted p</th><th>effect</th><th>reference</th><th>current</th>"
        f"<th style='text-align:left'>why</th></tr>{rows}</table></div>"
    )


def _bar(effect: float | None, floor: float, colour: str) -> str:
    """Return an effect as a number with a bar, and a mark at the floor."""
    if effect is None:
        return ""
    width = round(_BAR_PIXELS * min(1.0, max(0.0, effect) / _FULL_EFFECT))
    mark = round(_BAR_PIXELS * min(1.0, floor / _FULL_EFFECT))
    return (
        f"<div style='position:relative;width:{_BAR_PIXELS}px;background:#8881;height:1.2em'>"
        f"<div style='position:absolute;width:{width}px;height:100%;background:{colour};"
        "opacity:.35'></div>"
        f"<div style='position:absolute;left:{mark}px;width:1px;height:100%;background:#888'></div>"
        f"<div style='position:relative;padding-left:4px'>{effect:.3f}</div></div>"
    )


def _number(value: float | None, spelling: str) -> str:
    return "" if value is None else format(value, spelling)
