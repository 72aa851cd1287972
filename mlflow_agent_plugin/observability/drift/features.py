"""From monitoring rows to what is compared: one row per session, one column per signal.

Rules:
- A session counts once, by its first request in the window: later ones depend on it.
- Nothing here knows which sample is which, except the word list and the text classifier, which are
  built so that their columns look alike on both sides when nothing changed.
- A missing value stays missing; a missing source column is a column of missing values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_agent_plugin.errors import DriftInputError
from mlflow_agent_plugin.observability.drift import statistics
from mlflow_agent_plugin.observability.drift.texts import (
    novelty_columns,
    split_words,
    unseen_words,
)
from mlflow_agent_plugin.observability.drift.verdict import ColumnEvidence

if TYPE_CHECKING:
    import pandas as pd

MAX_SESSIONS = 100_000
"""More sessions than this are sampled: beyond it only trifles become visible."""


@dataclass(frozen=True)
class Feature:
    """One compared column.

    Attributes:
        kind: "categorical" or "numerical", as Evidently calls them.
        test: Name of the test, see `TESTS`.
        meaning: What the column says, for reports and docs.
        operational: It depends on the machine, so it is not compared with an evaluation run.
    """

    name: str
    kind: str
    test: str
    meaning: str
    operational: bool = False


FEATURES: tuple[Feature, ...] = (
    Feature("intent", "categorical", "chi_square", "the planner's top intent"),
    Feature("outcome", "categorical", "chi_square", "how the turn ended"),
    Feature("tools", "categorical", "chi_square", "the set of tools wanted"),
    Feature("confidence", "numerical", "low_tail", "the planner's confidence, its low tail first"),
    Feature("text_words", "numerical", "kolmogorov_smirnov", "words in the text"),
    Feature("text_chars", "numerical", "kolmogorov_smirnov", "characters in the text"),
    Feature(
        "unseen_words", "numerical", "kolmogorov_smirnov", "share of words new to the reference"
    ),
    Feature("text_novelty", "numerical", "greater", "how far a classifier tells the texts apart"),
    Feature("calls", "numerical", "kolmogorov_smirnov", "tool calls wanted"),
    Feature("tokens", "numerical", "kolmogorov_smirnov", "tokens in and out"),
    Feature("cost_microusd", "numerical", "kolmogorov_smirnov", "cost, millionths of a US dollar"),
    Feature(
        "latency_ms", "numerical", "kolmogorov_smirnov", "time of the turn, ms", operational=True
    ),
)

TESTS: dict[str, Callable[[Any, Any], float]] = {
    "chi_square": statistics.chi_square_p,
    "kolmogorov_smirnov": statistics.kolmogorov_smirnov_p,
    "low_tail": statistics.low_tail_p,
    "greater": statistics.greater_p,
}

EFFECTS: dict[str, Callable[[Any, Any], float]] = {
    "categorical": statistics.category_effect,
    "numerical": statistics.number_effect,
}


@dataclass(frozen=True)
class Comparison:
    """Two samples ready to be compared.

    Attributes:
        reference: One row per session, one column per feature.
        current: Likewise.
        features: The columns to compare.
        left_out: Column name to the reason why it is not compared.
        rows: Rows of the current window before sessions were taken.
    """

    reference: pd.DataFrame
    current: pd.DataFrame
    features: tuple[Feature, ...]
    left_out: dict[str, str]
    reference_digest: str
    start: str | None
    end: str | None
    rows: int


def compare(
    reference: pd.DataFrame, current: pd.DataFrame, *, columns: Sequence[str] | None = None
) -> Comparison:
    """Prepare two frames of monitoring rows for comparison.

    Args:
        reference: Rows of the table's schema (more columns do not matter).
        current: Likewise.
        columns: Names of the features to compare; None: all.

    Raises:
        DriftInputError: A frame lacks what identifies a row, mixes agents, or a feature is unknown.
    """
    known = {feature.name: feature for feature in FEATURES}
    wanted = list(known) if columns is None else list(columns)
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise DriftInputError(
            f"no such column to compare: {', '.join(unknown) or '(none named)'}",
            hint=f"There are {', '.join(known)}.",
        )
    for name, frame in (("reference", reference), ("current", current)):
        missing = [c for c in ("trace_id", "event_time", "session_id") if c not in frame.columns]
        if missing:
            raise DriftInputError(f"lacks the column {', '.join(missing)}", where=name)
    agents = set(_values(reference, "agent")) | set(_values(current, "agent"))
    if len(agents) > 1:
        raise DriftInputError(
            f"rows of several agents: {', '.join(sorted(agents))}", hint="Filter them first."
        )
    first, second = one_per_session(reference), one_per_session(current)
    left = _features(first)
    right = _features(second)
    left["unseen_words"], right["unseen_words"] = unseen_words(_texts(first), _texts(second))
    if "text_novelty" in wanted:
        left["text_novelty"], right["text_novelty"] = novelty_columns(_texts(first), _texts(second))
    left_out = {}
    if reference.attrs.get("source") == "evaluation":
        left_out = {
            feature.name: "the reference was measured in an evaluation, on another machine's load"
            for feature in FEATURES
            if feature.operational
        }
    times = second["event_time"]
    return Comparison(
        reference=left[wanted],
        current=right[wanted],
        features=tuple(known[name] for name in wanted),
        left_out=left_out,
        reference_digest=_digest(first),
        start=None if second.empty else times.min().isoformat(),
        end=None if second.empty else times.max().isoformat(),
        # Spark hands over one row per session, and how many there were (`sessions_on_spark`).
        rows=int(current.attrs.get("rows", len(current))),
    )


def measure(comparison: Comparison) -> list[ColumnEvidence]:
    """Run every test in plain numpy and scipy; a test that fails is evidence of its own."""
    return [
        evidence(comparison, feature, _run_test(comparison, feature))
        for feature in comparison.features
    ]


def evidence(
    comparison: Comparison, feature: Feature, result: tuple[float, float] | str | None
) -> ColumnEvidence:
    """Return the evidence on one column.

    Args:
        comparison: The two samples.
        feature: The column.
        result: p-value and effect, or why the test failed, or None if there was nothing to test.
    """
    counts = {}
    for side, frame in (("reference", comparison.reference), ("current", comparison.current)):
        present = int(frame[feature.name].notna().sum())
        if feature.name == "text_novelty":
            # Half of the texts train the classifier; they are used, not missing.
            present = int(frame.attrs.get("texts", present))
        counts[f"n_{side}"] = present
        counts[f"missing_{side}"] = len(frame) - present
    scored = isinstance(result, tuple)
    return ColumnEvidence(
        name=feature.name,
        test=feature.test,
        **counts,
        p_value=result[0] if isinstance(result, tuple) else None,
        effect=result[1] if isinstance(result, tuple) else None,
        error=None if scored or result is None else str(result),
        left_out=comparison.left_out.get(feature.name),
    )


def testable(comparison: Comparison, feature: Feature) -> bool:
    """Return whether both sides have any value of `feature`, and it is to be compared."""
    return feature.name not in comparison.left_out and all(
        frame[feature.name].notna().any() for frame in (comparison.reference, comparison.current)
    )


def one_per_session(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of each session (per tenant), at most `MAX_SESSIONS` of them.

    Raises:
        DriftInputError: `event_time` does not hold times.
    """
    import pandas as pd

    keys = ["tenant", "session_id"] if "tenant" in frame.columns else ["session_id"]
    rows = frame.drop_duplicates("trace_id").copy(deep=False)
    rows.attrs = {}
    try:
        rows["event_time"] = pd.to_datetime(rows["event_time"], utc=True)
    except (TypeError, ValueError) as error:
        raise DriftInputError("event_time does not hold times") from error
    rows = rows.sort_values(["event_time", "trace_id"], kind="stable")
    rows = rows.groupby(keys, sort=False, dropna=False).head(1)
    if len(rows) > MAX_SESSIONS:
        rows = rows.sample(MAX_SESSIONS, random_state=0).sort_values(["event_time", "trace_id"])
    return rows.reset_index(drop=True)


def _run_test(comparison: Comparison, feature: Feature) -> tuple[float, float] | str | None:
    if not testable(comparison, feature):
        return None
    left = comparison.reference[feature.name].dropna().to_numpy()
    right = comparison.current[feature.name].dropna().to_numpy()
    try:
        return TESTS[feature.test](left, right), EFFECTS[feature.kind](left, right)
    except Exception as error:
        return type(error).__name__


def _features(rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    texts = _texts(rows)
    words = [split_words(text) for text in texts]
    tokens = _numbers(rows, "input_tokens") + _numbers(rows, "output_tokens")
    columns: dict[str, Any] = {
        "intent": _categories(rows, "intent"),
        "outcome": _categories(rows, "outcome"),
        "tools": _tool_sets(rows),
        "confidence": _numbers(rows, "confidence"),
        "text_words": [None if found is None else len(found) for found in words],
        "text_chars": [None if text is None else len(text) for text in texts],
        "unseen_words": np.nan,
        "text_novelty": np.nan,
        "calls": _numbers(rows, "calls"),
        "tokens": tokens,
        "cost_microusd": _numbers(rows, "cost_usd") * 1e6,
        "latency_ms": _numbers(rows, "seconds") * 1e3,
    }
    frame = pd.DataFrame(columns, index=rows.index)
    for feature in FEATURES:
        if feature.kind == "numerical":
            frame[feature.name] = frame[feature.name].astype(float)
        else:
            frame[feature.name] = frame[feature.name].astype(object)
    frame.attrs["texts"] = sum(bool(found) for found in words)
    return frame


def _texts(rows: pd.DataFrame) -> list[str | None]:
    if "text" not in rows.columns:
        return [None] * len(rows)
    return [text if isinstance(text, str) else None for text in rows["text"]]


def _numbers(rows: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    if name not in rows.columns:
        return pd.Series(np.nan, index=rows.index)
    values = pd.to_numeric(rows[name], errors="coerce").astype(float)
    return values.where(np.isfinite(values))


def _categories(rows: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    if name not in rows.columns:
        return pd.Series(None, index=rows.index, dtype=object)
    values: Any = rows[name].astype(object)
    return values.where(values.notna(), None).map(
        lambda value: None if value is None else str(value)
    )


def _tool_sets(rows: pd.DataFrame) -> list[str | None]:
    if "tools" not in rows.columns:
        return [None] * len(rows)
    return [
        None
        if tools is None or isinstance(tools, float)
        else " + ".join(sorted({str(tool) for tool in tools})) or "(none)"
        for tools in rows["tools"]
    ]


def _values(frame: pd.DataFrame, name: str) -> list[str]:
    if name not in frame.columns:
        return []
    return [str(value) for value in frame[name].dropna().unique()]


def _digest(rows: pd.DataFrame) -> str:
    joined = "\n".join(sorted(str(trace) for trace in rows["trace_id"]))
    return "sha256:" + hashlib.sha256(joined.encode()).hexdigest()
