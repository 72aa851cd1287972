"""Everything people said about requests, one row each: who, when, about which trace.

Rules:
- Thumbs, reviewers' answers to tool calls, right intents and right answers: one table, which the
  pipeline checks, versions and learns from.
- Only people count, and only what is still valid; of several thumbs, intents or answers of one
  person on one request the newest. Reviews stay apart: each is about a call of its own.
- Nothing is repaired: a value that makes no sense is a row, for the validation to name.
- Texts are masked. A person whose name is personal data itself (a mail address) stands there as a
  digest: the same person, the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.lifecycle.labels import (
    ANSWER_EXPECTATION,
    LABEL_ASSESSMENT,
    THUMB_ASSESSMENT,
    comment_of,
    iter_said,
    said_at,
    value_of,
)
from mlflow_agent_plugin.lifecycle.reviews import REVIEW_ASSESSMENT

if TYPE_CHECKING:
    import pandas as pd


class RemarkKind(str, Enum):
    """What a remark is."""

    THUMB = "thumb"
    REVIEW = "review"
    INTENT = "intent"
    ANSWER = "answer"


REMARK_COLUMNS: tuple[str, ...] = (
    "remark_id", "trace_id", "agent", "agent_digest", "text", "intent", "outcome", "kind", "value",
    "by", "said_at", "comment",
)  # fmt: skip

_KINDS = {
    THUMB_ASSESSMENT: RemarkKind.THUMB,
    REVIEW_ASSESSMENT: RemarkKind.REVIEW,
    LABEL_ASSESSMENT: RemarkKind.INTENT,
    ANSWER_EXPECTATION: RemarkKind.ANSWER,
}
_THUMBS = {True: "up", False: "down"}


def collect_remarks(
    experiment_ids: Sequence[str] | str | None = None,
    *,
    since: datetime | None = None,
    agent: str | None = None,
) -> pd.DataFrame:
    """Return all that people said, `REMARK_COLUMNS`, the oldest first.

    Args:
        experiment_ids: Experiments whose traces are traffic; None: all active ones.
        since: Only about traces begun since then, with time zone.
        agent: Only about requests to this agent.
    """
    import pandas as pd

    found = [
        _remark(row, assessment)
        for row, said in iter_said(experiment_ids, since=since, agent=agent)
        for assessment in _last_words(said)
    ]
    frame = pd.DataFrame(found, columns=list(REMARK_COLUMNS))
    frame["said_at"] = pd.to_datetime(frame["said_at"], unit="ms", utc=True)
    return frame.sort_values(["said_at", "remark_id"], ignore_index=True)


def name_person(name: str) -> str:
    """Return `name`, or a digest of it if it is personal data."""
    if mask_text(name) == name:
        return name
    # Letters only: a run of digits would be taken for a number of somebody's.
    digest = hashlib.sha256(b"mlflow-agents/person:" + name.encode()).hexdigest()[:24]
    return "person-" + digest.translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))


def _last_words(said: list[Any]) -> list[Any]:
    """Return what each person said last of each kind, and every review."""
    last: dict[tuple[str, str], Any] = {}
    for number, assessment in enumerate(said):
        if assessment.name not in _KINDS:
            continue
        review = assessment.name == REVIEW_ASSESSMENT
        who = str(number) if review else str(assessment.source.source_id)
        last[assessment.name, who] = assessment
    return list(last.values())


def _remark(row: dict[str, Any], assessment: Any) -> dict[str, Any]:
    kind, value = _KINDS[assessment.name], value_of(assessment)
    if kind is RemarkKind.THUMB and isinstance(value, bool):
        value = _THUMBS[value]
    return {
        **{name: row.get(name) for name in REMARK_COLUMNS if name in row},
        "remark_id": assessment.assessment_id,
        "kind": kind.value,
        "value": None if value is None else mask_text(str(value)),
        "by": name_person(str(assessment.source.source_id or "")),
        "said_at": said_at(assessment) or None,
        "comment": comment_of(assessment),
    }
