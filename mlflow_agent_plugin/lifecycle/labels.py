"""Labels from feedback: what people said a request really was, kept on its trace by MLflow.

Rules:
- A label is an MLflow assessment on a request's trace with the name `LABEL_ASSESSMENT`: an
  expectation, or feedback whose value is the right intent. The newest valid one of a trace counts.
- Only people label (source type HUMAN): a model's opinion would teach it its own mistakes.
- The text is the masked one of the trace's summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.schema import SUMMARY_KEY, row_from_summary
from mlflow_agent_plugin.observability.table import iter_traces, list_experiments

if TYPE_CHECKING:
    import pandas as pd

LABEL_ASSESSMENT = "intent"
LABEL_COLUMNS: tuple[str, ...] = ("text", "label", "trace_id", "labelled_at")


def collect_labels(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    since: datetime | None = None,
    agent: str | None = None,
) -> pd.DataFrame:
    """Return the labelled requests, `LABEL_COLUMNS`, oldest label first.

    Args:
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        since: Only traces begun since then, with time zone.
        agent: Only requests to this agent.
    """
    import pandas as pd

    start = 0 if since is None else int(since.timestamp() * 1000)
    found: list[dict[str, Any]] = []
    for experiment in list_experiments(experiment_ids):
        for info in iter_traces(experiment, start):
            label = _label(info.assessments or ())
            summary = info.trace_metadata.get(SUMMARY_KEY)
            if label is None or summary is None:
                continue
            try:
                row = row_from_summary(summary, trace_id=info.trace_id)
            except DataError:
                continue
            if not row["text"] or (agent is not None and row["agent"] != agent):
                continue
            found.append(
                {
                    "text": row["text"],
                    "label": label[1],
                    "trace_id": info.trace_id,
                    "labelled_at": pd.Timestamp(label[0], unit="ms", tz="UTC"),
                }
            )
    frame = pd.DataFrame(found, columns=list(LABEL_COLUMNS))
    return frame.sort_values(["labelled_at", "trace_id"], ignore_index=True)


def write_labels(labels: pd.DataFrame, path: str | Path) -> Path:
    """Write labels as CSV for the pipeline's ingest stage and return the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    labels.to_csv(temporary, index=False)
    temporary.replace(target)
    return target


def _label(assessments: Sequence[Any]) -> tuple[int, str] | None:
    newest: tuple[int, str] | None = None
    for assessment in assessments:
        source = str(getattr(assessment.source, "source_type", "")).upper()
        value = getattr(assessment.expectation or assessment.feedback, "value", None)
        if (
            assessment.name != LABEL_ASSESSMENT
            or source != "HUMAN"
            or assessment.valid is False
            or not isinstance(value, str)
            or not value
        ):
            continue
        at = int(assessment.last_update_time_ms or assessment.create_time_ms or 0)
        if newest is None or at >= newest[0]:
            newest = (at, value)
    return newest
