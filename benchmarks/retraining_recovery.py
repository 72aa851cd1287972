"""How much of the accuracy a shift cost comes back by retraining on labelled traffic.

    python -m benchmarks.retraining_recovery            # 5 seeds, about 8 minutes of CPU

A planner is trained on BANKING77 without 12 intents. Then 20 % of the requests are about those.
`choose_for_labelling` says which of the first shifted weeks' 5,000 requests people label (by their
true intent), 250 at a time, or they are drawn at random; the pipeline's own `combine` joins them
with the base data (a fifth kept back), and the planner is trained again. All is measured on later
traffic, of which nothing was ever trained on: BANKING77's whole test split, each query of the known
and of the new intents weighing so that 20 % of the weight is on the new ones. That is what drawn
traffic has on average, without the noise of the draw:

- *before*: accuracy on unshifted traffic (known intents only), the first planner;
- *shifted*: accuracy on shifted traffic, the first planner;
- *after*: accuracy on the same shifted traffic, the retrained planner;
- *recovered*: (after - shifted) / (before - shifted). Bound: 0.9;
- *low*, *high*: 95 % interval of *recovered* by bootstrap over the test queries, known and new
  apart: what the test split's size leaves open about this one retraining;
- *recovered_drawn*: the same share on 2,000 drawn requests, as this benchmark measured before.

The planner's and the picking's settings were chosen on seeds 100 to 104, not on those reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HELD_BACK = 12
SHARE = 0.2
LABELS = (1000,)
CHOICES = ("least_sure", "random")
SEEN = 5000
BATCH = 250
TRAFFIC = 2000
RESAMPLED = 2000
RESULTS = Path(__file__).parent / "results" / "retraining_recovery.json"


def shifted(
    frame: pd.DataFrame, new: np.ndarray, count: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Draw requests, `SHARE` of them of the new intents."""
    is_new = generator.random(count) < SHARE
    rows = np.empty(count, int)
    for wanted, pool in ((True, np.flatnonzero(new)), (False, np.flatnonzero(~new))):
        chosen = is_new == wanted
        rows[chosen] = generator.choice(pool, int(chosen.sum()))
    return frame.iloc[rows]


def right(planner: Any, rows: pd.DataFrame) -> np.ndarray:
    """Return for each request whether the planner names its intent."""
    said = [label for label, _ in planner.predict(rows["text"].tolist())]
    return np.array(said) == rows["category"].to_numpy()


def recovery(
    first: np.ndarray, again: np.ndarray, new: np.ndarray
) -> tuple[float, float, float, float]:
    """Return accuracy before the shift, in it and after retraining, and the recovered share.

    Args:
        first: Whether the first planner was right, by test query.
        again: Whether the retrained one was.
        new: Whether the query is of a new intent.
    """

    def mixed(hits: np.ndarray) -> float:
        return float((1 - SHARE) * hits[~new].mean() + SHARE * hits[new].mean())

    before, lost, after = float(first[~new].mean()), mixed(first), mixed(again)
    return before, lost, after, (after - lost) / (before - lost)


def interval(
    first: np.ndarray, again: np.ndarray, new: np.ndarray, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the recovered share."""
    known, novel = np.flatnonzero(~new), np.flatnonzero(new)
    shares = []
    for _ in range(RESAMPLED):
        rows = np.concatenate(
            [generator.choice(known, len(known)), generator.choice(novel, len(novel))]
        )
        shares.append(recovery(first[rows], again[rows], new[rows])[3])
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def run(seed: int, sizes: Sequence[int], choices: Sequence[str]) -> list[dict[str, Any]]:
    """Measure one choice of held-back intents, with so many labelled requests."""
    from mlflow_agent_plugin.foundation import train_planner
    from pipelines.data import load_banking77
    from pipelines.ingest import combine

    generator = np.random.default_rng(seed)
    train, test = load_banking77("train"), load_banking77("test")
    held = generator.choice(sorted(set(train["category"])), HELD_BACK, replace=False)
    new_train = train["category"].isin(held).to_numpy()
    new_test = test["category"].isin(held).to_numpy()
    # What people ask before the shift and after it are different queries.
    half = generator.random(len(train)) < 0.5
    base = train[half & ~new_train]
    first = train_planner(base["text"].tolist(), base["category"].tolist(), seed=seed)
    later = shifted(test, new_test, TRAFFIC, generator)
    first_right = right(first, test)
    drawn = [float(right(first, rows).mean()) for rows in (test[~new_test], later)]
    weeks = train[~half]
    seen = shifted(weeks, weeks["category"].isin(held).to_numpy(), SEEN, generator)
    traffic = as_traffic(first, seen)
    found = []
    for labels, choice in ((n, c) for n in sizes for c in choices):
        asked = chosen(traffic, labels, choice)
        feedback = pd.DataFrame(
            {
                "text": asked["text"].to_numpy(),
                "label": asked["category"].to_numpy(),
                "labelled_at": pd.Timestamp("2026-01-01", tz="UTC"),
                "row": range(len(asked)),
            }
        )
        joined = combine(base, test, feedback, holdout_share=0.2)
        trained = joined[joined["split"] == "train"]
        again = train_planner(trained["text"].tolist(), trained["category"].tolist(), seed=seed)
        again_right = right(again, test)
        before, lost, after, share = recovery(first_right, again_right, new_test)
        low, high = interval(first_right, again_right, new_test, np.random.default_rng(seed))
        found.append(
            {
                "seed": seed,
                "chosen": choice,
                "labelled_requests": labels,
                "of_new_intents": int(asked["category"].isin(held).sum()),
                "trained_on": len(trained),
                "before": round(before, 4),
                "shifted": round(lost, 4),
                "after": round(after, 4),
                "known_right": round(float(again_right[~new_test].mean()), 4),
                "new_right": round(float(again_right[new_test].mean()), 4),
                "recovered": round(share, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "recovered_drawn": round(
                    (float(right(again, later).mean()) - drawn[1]) / (drawn[0] - drawn[1]), 4
                ),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def as_traffic(planner: Any, requests: pd.DataFrame) -> pd.DataFrame:
    """Return requests as rows of the monitoring table, with what the planner in service said."""
    said = planner.predict(requests["text"].tolist())
    return pd.DataFrame(
        {
            "trace_id": [f"tr-{number:06}" for number in range(len(requests))],
            "text": requests["text"].to_numpy(),
            "category": requests["category"].to_numpy(),
            "intent": [intent for intent, _ in said],
            "confidence": [confidence for _, confidence in said],
            "outcome": "answered",
        }
    )


def chosen(traffic: pd.DataFrame, count: int, choice: str) -> pd.DataFrame:
    """Return the requests that are labelled, with their true intent."""
    if choice == "random":
        return traffic.head(count)
    from mlflow_agent_plugin.lifecycle.labels import FEEDBACK_COLUMNS
    from mlflow_agent_plugin.lifecycle.selection import choose_for_labelling

    asked = traffic.head(0)
    while len(asked) < count:
        # What people are asked next depends on what they said so far.
        said = asked.rename(columns={"category": "label"}).reindex(columns=list(FEEDBACK_COLUMNS))
        said = said.fillna({"thumbs_down": 0, "rejected": 0, "edited": 0})
        batch = min(BATCH, count - len(asked))
        names = choose_for_labelling(traffic.drop(columns="category"), batch, feedback=said)
        more = traffic.set_index("trace_id").loc[names["trace_id"]].reset_index()
        asked = pd.concat([asked, more], ignore_index=True)
    return asked


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds with its 95 % interval (Student's t)."""
    from scipy import stats

    found = []
    for labels, choice in dict.fromkeys((r["labelled_requests"], r["chosen"]) for r in rows):
        values = [
            r["recovered"]
            for r in rows
            if (r["labelled_requests"], r["chosen"]) == (labels, choice)
        ]
        mean, n = float(np.mean(values)), len(values)
        half = (
            float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
            if n > 1
            else None
        )
        found.append(
            {
                "labelled_requests": labels,
                "chosen": choice,
                "seeds": n,
                "mean": round(mean, 4),
                "low": None if half is None else round(mean - half, 4),
                "high": None if half is None else round(mean + half, 4),
                "worst": min(values),
            }
        )
    return found


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--choices", choices=CHOICES, nargs="+", default=list(CHOICES))
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    begun = time.process_time()
    rows = [row for seed in options.seeds for row in run(seed, options.labels, options.choices)]
    document = {
        "held_back_intents": HELD_BACK,
        "share_of_new_requests": SHARE,
        "later_requests": "the test split",
        "drawn_requests": TRAFFIC,
        "bound": 0.9,
        "requests_seen": SEEN,
        "picked_at_a_time": BATCH,
        "summary": summary(rows),
        "rows": rows,
        "cpu_seconds": round(time.process_time() - begun, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
