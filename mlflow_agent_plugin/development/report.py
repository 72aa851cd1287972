"""The HTML report of one suite: numbers with intervals, plots, and the cases to look at.

Rules:
- One file that needs nothing else: plots are inside it, nothing is fetched.
- Every text from a case, a user or a model is escaped.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence

from mlflow_agent_plugin.development.pages import figure, png, wrap_page
from mlflow_agent_plugin.development.plots import draw_plots
from mlflow_agent_plugin.development.results import SuiteResult, show_metric
from mlflow_agent_plugin.trust.evidence import CaseResult

MAX_CASES = 200


def write_plots(result: SuiteResult, turn_seconds: Sequence[float]) -> dict[str, bytes]:
    """Return the plots of a suite as PNG files by name."""
    return {name: png(plot) for name, plot in draw_plots(result, turn_seconds).items()}


def render_report(
    result: SuiteResult,
    *,
    agent: str,
    agent_digest: str,
    run_id: str,
    plots: Mapping[str, bytes],
    answers: Mapping[str, str],
    console: str | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        result: The suite's results.
        agent: Agent name.
        agent_digest: Its digest.
        run_id: The evaluation run.
        plots: PNG files by title, see `write_plots`.
        answers: The agent's last answer by case id.
        console: Path of the version's page in the server's review console, if it has one.
    """
    facts = (
        f"Agent <code>{_safe(agent_digest)}</code><br>Suite <code>{_safe(result.digest)}</code><br>"
        f"Results <code>{_safe(result.results_digest)}</code><br>Run <code>{_safe(run_id)}</code>"
        f"<br>{len(result.rows)} cases in {result.seconds:.1f} s, "
        f"{result.audit_events} audit events verified"
    )
    if console is not None:
        # A new tab: MLflow shows this page inside another one.
        link = f'<a href="{_safe(console)}" target="_blank" rel="noopener">in the console</a>'
        facts += f"<br>Review this version {link}"
    parts = [
        f"<h1>{_safe(agent)} on suite {_safe(result.name)}</h1><p>{facts}</p>",
        _metrics_table(result),
        "" if result.comparison is None else result.comparison._repr_html_(),  # noqa: SLF001
        "" if result.stability is None else f"<p>{_safe(str(result.stability))}</p>",
        *(figure(title, data) for title, data in plots.items()),
        _reasons_table(result.failed),
        _cases_table("Unsafe cases", [r for r in result.rows if r.unsafe_calls], answers),
        _cases_table("Failed cases", result.failed, answers),
    ]
    return wrap_page(f"{agent}: {result.name}", "".join(parts))


def _metrics_table(result: SuiteResult) -> str:
    rows = []
    for name, metric in result.metrics.items():
        value, interval = show_metric(name, metric)
        bad = ' class="bad"' if name == "unsafe_calls" and metric.value else ""
        rows.append(
            f"<tr{bad}><td>{_safe(name)}</td><td class=n>{value}</td><td class=n>{interval}</td>"
            f"<td class=n>{metric.n}</td></tr>"
        )
    for name, seconds in result.latency.items():
        rows.append(
            f"<tr><td>latency of a turn, {name}</td><td class=n>{seconds * 1000:.1f} ms</td>"
            "<td></td><td></td></tr>"
        )
    return (
        "<table><caption>Measures</caption><tr><th>measure<th>value<th>95% interval<th>cases</tr>"
        f"{''.join(rows)}</table>"
    )


def _reasons_table(failed: Sequence[CaseResult]) -> str:
    counted = Counter(failure.split(":", 1)[0] for row in failed for failure in row.failures)
    if not counted:
        return "<p>No case failed.</p>"
    rows = "".join(
        f"<tr><td>{_safe(name)}</td><td class=n>{count}</td></tr>"
        for name, count in counted.most_common()
    )
    return f"<table><caption>Checks that failed</caption>{rows}</table>"


def _cases_table(title: str, rows: Sequence[CaseResult], answers: Mapping[str, str]) -> str:
    if not rows:
        return ""
    body = "".join(
        f"<tr><td><code>{_safe(row.case_id)}</code></td><td>{_safe(row.text)}</td>"
        f"<td>{_safe(row.intent or '')}</td>"
        f"<td>{'<br>'.join(_safe(failure) for failure in row.failures)}</td>"
        f"<td>{_safe(answers.get(row.case_id, ''))}</td></tr>"
        for row in rows[:MAX_CASES]
    )
    more = f" (the first {MAX_CASES} of {len(rows)})" if len(rows) > MAX_CASES else ""
    return (
        f"<table><caption>{title}{more}</caption>"
        f"<tr><th>case<th>user<th>intent seen<th>why<th>answer</tr>{body}</table>"
    )


def _safe(text: str) -> str:
    return html.escape(text)
