"""Which requests are worth a person's label: those the agent was least sure of come first.

Rules:
- Labelling at random spends most labels on what the agent knows already. Requests of a new kind get
  little confidence (docs/concepts/drift.md has what that is worth).
- What people found wrong already (a thumb down, a call rejected or edited) comes before all.
- From the labels there are it learns what the agent has no name for, and asks more there: label
  some, pick again, label the next. While few labels are of that kind, it learns where the agent is
  wrong instead.
- A text is asked about once, however often it came; one that has a label is not asked about again.
- Pure: tables in, a table out, always the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.words import fold

if TYPE_CHECKING:
    import pandas as pd

MIN_LABELS = 20
"""Labels of either kind before anything is learned from their difference."""

CHOSEN_COLUMNS: tuple[str, ...] = ("trace_id", "text", "intent", "confidence", "outcome", "label")


def choose_for_labelling(
    traffic: pd.DataFrame, count: int, *, feedback: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the requests to label next, `CHOSEN_COLUMNS`, the most useful first.

    Args:
        traffic: Rows of the monitoring table.
        count: At most so many.
        feedback: What people said so far (`collect_feedback`).

    Raises:
        DataError: The traffic lacks a column, or `count` is not positive.
    """
    missing = [name for name in CHOSEN_COLUMNS[:-1] if name not in traffic.columns]
    if missing:
        raise DataError(f"has no column {missing[0]}", where="traffic")
    if count < 1:
        raise DataError("is not positive", where="count")
    found = traffic[traffic["text"].notna()]
    found = found.assign(key=[" ".join(fold(text)) for text in found["text"]], wrong=False)
    found = found[found["key"] != ""]
    if feedback is not None and not feedback.empty:
        labelled = feedback[feedback["label"].notna() & feedback["text"].notna()]
        known = {" ".join(fold(text)) for text in labelled["text"]}
        found = found[~found["key"].isin(known)]
        bad = feedback[(feedback[["thumbs_down", "rejected", "edited"]] > 0).any(axis=1)]
        found["wrong"] = found["trace_id"].isin(set(bad["trace_id"]))
    found = found.sort_values(["confidence", "trace_id"], kind="stable", na_position="first")
    found = found.sort_values("wrong", ascending=False, kind="stable").drop_duplicates("key")
    likely = None
    if feedback is not None:
        likely = _likely_missed(feedback, set(traffic["intent"]), found["text"].tolist())
    if likely is not None:
        unsure = found["confidence"].fillna(-1.0).rank(method="first")
        both = unsure.to_numpy() + (-likely).argsort(kind="stable").argsort(kind="stable")
        found = found.assign(both=both).sort_values(
            ["wrong", "both"], ascending=[False, True], kind="stable"
        )
    found = found.head(count)
    return found.assign(label="")[list(CHOSEN_COLUMNS)].reset_index(drop=True)


def _likely_missed(feedback: pd.DataFrame, named: set[str], texts: list[str]) -> Any:
    """Return how likely each text is what the agent misses, None with too few labels to say.

    Args:
        feedback: What people said so far.
        named: The intents the agent names in the traffic.
        texts: What may be asked about.
    """
    known = feedback[feedback[["text", "label", "intent"]].notna().all(axis=1)]
    kinds = (~known["label"].isin(named), known["label"] != known["intent"])
    missed = next((kind.to_numpy() for kind in kinds if _both_kinds(kind)), None)
    if missed is None or not texts:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    model = LogisticRegression(C=5.0, class_weight="balanced", max_iter=200)
    model.fit(vectors.fit_transform(known["text"]), missed)
    return model.predict_proba(vectors.transform(texts))[:, 1]


def _both_kinds(kind: pd.Series) -> bool:
    return MIN_LABELS <= int(kind.sum()) <= len(kind) - MIN_LABELS
