"""What people said about requests, collected from the assessments MLflow keeps on their traces.

Rules:
- One reading of the traces makes one table (`collect_feedback`): a row per request anybody said
  something about. The labels are its rows that have one (`collect_labels`). `remarks` makes a row
  of everything each person said.
- A label is an assessment with the name `LABEL_ASSESSMENT`: an expectation, or feedback whose value
  is the right intent. The newest valid one of a trace counts.
- Only people count (source type HUMAN): a model's opinion would teach it its own mistakes. Of
  several thumbs of one person on one request the newest counts.
- The text is the masked one of the trace's summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.lifecycle.reviews import REVIEW_ASSESSMENT
from mlflow_agent_plugin.observability.reading import iter_traces, list_experiments
from mlflow_agent_plugin.observability.schema import row_from_summary, summary_of

if TYPE_CHECKING:
    import pandas as pd

LABEL_ASSESSMENT = "intent"
THUMB_ASSESSMENT = "thumb"
ANSWER_EXPECTATION = "expected_response"

LABEL_COLUMNS: tuple[str, ...] = ("text", "label", "trace_id", "labelled_at")
FEEDBACK_COLUMNS: tuple[str, ...] = (
    "trace_id", "event_time", "agent", "agent_digest", "text", "intent", "outcome", "label",
    "labelled_at", "expected_response", "thumbs_up", "thumbs_down", "approved", "rejected",
    "edited", "comments",
)  # fmt: skip


def collect_feedback(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    since: datetime | None = None,
    agent: str | None = None,
) -> pd.DataFrame:
    """Return what people said, `FEEDBACK_COLUMNS`, one row per request, the oldest first.

    Args:
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        since: Only traces begun since then, with time zone.
        agent: Only requests to this agent.
    """
    import pandas as pd

    found = [
        _feedback_row(row, said)
        for row, said in iter_said(experiment_ids, since=since, agent=agent)
    ]
    frame = pd.DataFrame(found, columns=list(FEEDBACK_COLUMNS))
    frame["labelled_at"] = pd.to_datetime(frame["labelled_at"], unit="ms", utc=True)
    return frame.sort_values(["event_time", "trace_id"], ignore_index=True)


def collect_labels(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    since: datetime | None = None,
    agent: str | None = None,
    given_since: datetime | None = None,
) -> pd.DataFrame:
    """Return the labelled requests, `LABEL_COLUMNS`, oldest label first.

    Args:
        experiment_ids: As `collect_feedback`.
        since: As `collect_feedback`.
        agent: As `collect_feedback`.
        given_since: Only requests whose label is of then or later, with time zone.
    """
    said = collect_feedback(experiment_ids, since=since, agent=agent)
    labelled = said[said["label"].notna() & said["text"].astype(bool)]
    if given_since is not None:
        labelled = labelled[labelled["labelled_at"] >= given_since]
    return labelled[list(LABEL_COLUMNS)].sort_values(["labelled_at", "trace_id"], ignore_index=True)


def iter_said(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    since: datetime | None = None,
    agent: str | None = None,
) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Yield each request people said something about: its monitoring row, and all they said.

    What they said is the trace's valid assessments by people, the oldest first.

    Args: as `collect_feedback`.
    """
    start = 0 if since is None else int(since.timestamp() * 1000)
    for experiment in list_experiments(experiment_ids):
        for info in iter_traces(experiment, start):
            said = sorted(
                (a for a in info.assessments or () if is_human(a) and a.valid is not False),
                key=said_at,
            )
            summary = summary_of(info)
            if not any(a.name in _NAMES for a in said) or summary is None:
                continue
            try:
                row = row_from_summary(summary, trace_id=info.trace_id)
            except DataError:
                continue
            if agent is None or row["agent"] == agent:
                yield row, said


def write_labels(labels: pd.DataFrame, path: str | Path) -> Path:
    """Write labels or feedback as CSV for the pipeline's ingest stage and return the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    labels.to_csv(temporary, index=False)
    temporary.replace(target)
    return target


def is_human(assessment: Any) -> bool:
    """Return whether a person said it."""
    return str(getattr(assessment.source, "source_type", "")).upper() == "HUMAN"


def said_at(assessment: Any) -> int:
    """Return when it was said, in milliseconds."""
    return int(assessment.last_update_time_ms or assessment.create_time_ms or 0)


def value_of(assessment: Any) -> Any:
    """Return what was said."""
    return getattr(assessment.expectation or assessment.feedback, "value", None)


def comment_of(assessment: Any) -> str | None:
    """Return why it was said, masked; None if nobody gave a reason."""
    # An expectation has no rationale: `feedback` keeps the comment on one beside it.
    found = assessment.rationale or (assessment.metadata or {}).get("comment")
    return None if not found else mask_text(str(found))


def _feedback_row(row: dict[str, Any], said: list[Any]) -> dict[str, Any]:
    values = {name: [value_of(a) for a in said if a.name == name] for name in _NAMES}
    thumbs = {a.source.source_id: value_of(a) for a in said if a.name == THUMB_ASSESSMENT}
    reviews = Counter(str(value) for value in values[REVIEW_ASSESSMENT])
    answers = [value for value in values[ANSWER_EXPECTATION] if isinstance(value, str)]
    labels = [(said_at(a), value_of(a)) for a in said if a.name == LABEL_ASSESSMENT]
    at, label = next(
        (pair for pair in reversed(labels) if isinstance(pair[1], str) and pair[1]), (None, None)
    )
    return {
        **{name: row.get(name) for name in FEEDBACK_COLUMNS if name in row},
        "label": label,
        "labelled_at": at,
        "expected_response": answers[-1] if answers else None,
        "thumbs_up": list(thumbs.values()).count(True),
        "thumbs_down": list(thumbs.values()).count(False),
        "approved": reviews["approved"],
        "rejected": reviews["rejected"],
        "edited": reviews["edited"],
        "comments": [text for text in map(comment_of, said) if text],
    }


_NAMES = (LABEL_ASSESSMENT, ANSWER_EXPECTATION, THUMB_ASSESSMENT, REVIEW_ASSESSMENT)
