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


def verdict_html(verdict: DriftVerdict) -> str:
    """Return the verdict as an HTML fragment; every value is escaped."""
    rows = "".join(
        f"<tr><td>{escape(column.name)}</td>"
        f"<td style='color:{_COLOURS[column.status]}'>"
        f"{escape(column.status.value.replace('_', ' '))}</td>"
        f"<td>{_number(column.adjusted_p, '.2g')}</td><td>{_number(column.effect, '.3f')}</td>"
        f"<td>{column.n_reference}</td><td>{column.n_current}</td>"
        f"<td style='text-align:left'>{escape(column.reason)}</td></tr>"
        for column in verdict.columns
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return (
        "<div style='font-family:sans-serif;padding:12px'>"
        f"<p><b>{escape(verdict.summary().split(':')[0].capitalize())}</b></p><ul>{reasons}</ul>"
        f"<p>{escape(verdict.power)}</p>"
        "<table style='border-spacing:10px 2px'><tr><th>column</th><th>status</th>"
        "<th>adjusted p</th><th>effect</th><th>reference</th><th>current</th>"
        f"<th style='text-align:left'>why</th></tr>{rows}</table></div>"
    )


def _number(value: float | None, spelling: str) -> str:
    return "" if value is None else format(value, spelling)
