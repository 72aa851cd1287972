"""False alarms and power of the drift verdict, on real queries, beside Evidently's stock preset.

    python -m benchmarks.drift_false_alarms            # a few minutes
    python -m benchmarks.drift_false_alarms --full     # the numbers in docs/concepts/drift.md
    python -m benchmarks.drift_false_alarms --full --measure sequence   # one part of them

Traffic is resampled from BANKING77 queries a planner never saw in training. Requests of one
session share their intent, and a session effect in latency. For power, a share of the sessions
asks about intents that were held back from the planner's training.

- *single*: reference and window are drawn alike, with 1 to 10 rows per session; an alarm is a
  column that stands out (the first of the two windows a confirmation takes).
- *sequence*: 30 such windows in a row against one reference; an alarm is a confirmed drift.
- *stock*: `DataDriftPreset()` as it comes, on the same rows; an alarm is any drifted column.
- *power*: confirmed drift within 2 windows (20 % new) or 4 windows (10 % new) of 1,000 requests.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.observability.drift import DriftRules, DriftVerdict, check_drift
from mlflow_agent_plugin.observability.drift.features import compare

START = pd.Timestamp("2026-01-01", tz="UTC")
SIZES = (500, 1000, 10_000)
WINDOWS = 30
FULL_SEQUENCES = {500: 100, 1000: 100, 10_000: 20}
MEASURES = ("single", "sequence", "power")
HELD_BACK = 12
REFERENCE_ROWS = 3000
STOCK_COLUMNS = (
    "intent", "outcome", "tools", "confidence", "text_words", "text_chars", "calls", "tokens",
    "latency_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Queries with what a planner that never saw them says.

    Attributes:
        known: Positions of queries of trained intents, by intent.
        new: Positions of queries of held-back intents.
    """

    texts: np.ndarray
    intents: np.ndarray
    confidence: np.ndarray
    known: dict[str, np.ndarray]
    weights: np.ndarray
    new: np.ndarray


def make_pool(seed: int) -> Pool:
    """Train a planner on half of the training queries; it reads the other half and the test."""
    from mlflow_agent_plugin.foundation import train_planner
    from pipelines.data import load_banking77

    generator = np.random.default_rng(seed)
    train, test = load_banking77("train"), load_banking77("test")
    categories = sorted(set(train["category"]))
    held = set(generator.choice(categories, min(HELD_BACK, len(categories) // 4), replace=False))
    order = generator.permutation(len(train))
    half = len(train) // 2
    learn = train.iloc[order[:half]]
    learn = learn[~learn["category"].isin(held)]
    planner = train_planner(learn["text"].tolist(), learn["category"].tolist(), seed=seed)
    rest = pd.concat([train.iloc[order[half:]], test], ignore_index=True)
    rest = rest.drop_duplicates("text", ignore_index=True)
    said = planner.predict(rest["text"].tolist())
    labels = rest["category"].to_numpy()
    is_new = np.isin(labels, sorted(held))
    known = {str(name): np.flatnonzero(labels == name) for name in sorted(set(labels[~is_new]))}
    sizes = np.array([len(found) for found in known.values()], float)
    return Pool(
        texts=rest["text"].to_numpy(),
        intents=np.array([label for label, _ in said]),
        confidence=np.array([probability for _, probability in said]),
        known=known,
        weights=sizes / sizes.sum(),
        new=np.flatnonzero(is_new),
    )


def draw(
    pool: Pool, rows: int, per_session: int, generator: np.random.Generator, *, new: float = 0.0,
    start: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Draw traffic: rows of the monitoring schema (the columns that are compared)."""
    sessions = -(-rows // per_session)
    session = np.repeat(np.arange(sessions), per_session)[:rows]
    topics = generator.choice(len(pool.known), sessions, p=pool.weights)[session]
    position = np.empty(rows, int)
    for number, name in enumerate(pool.known):
        chosen = topics == number
        position[chosen] = generator.choice(pool.known[name], int(chosen.sum()))
    strange = (generator.random(sessions) < new)[session]
    position[strange] = generator.choice(pool.new, int(strange.sum()))
    confidence = pool.confidence[position]
    intents = pool.intents[position]
    clarified = confidence < 0.3
    effect = generator.normal(size=sessions)[session]
    names = np.array([f"{start}-{number}" for number in session])
    lengths = np.array([len(text) for text in pool.texts[position]])
    return pd.DataFrame(
        {
            "trace_id": [f"{start}-{number}" for number in range(rows)],
            "event_time": START + pd.to_timedelta(start * rows + np.arange(rows), unit="s"),
            "tenant": "default",
            "agent": "support",
            "session_id": names,
            "text": pool.texts[position],
            "intent": intents,
            "confidence": confidence,
            "outcome": np.where(clarified, "clarified", "answered"),
            "tools": [
                [] if unsure else [f"tool_{len(intent) % 9}"]
                for unsure, intent in zip(clarified, intents, strict=True)
            ],
            "calls": (~clarified).astype(int),
            "input_tokens": 60 + lengths // 4,
            "output_tokens": 20,
            "cost_usd": 0.0,
            "seconds": np.exp(-3 + 0.3 * generator.normal(size=rows) + 0.2 * effect),
        }
    )


def single(pool: Pool, rows: int, runs: int, seed: int) -> Iterator[bool | None]:
    """Yield whether an unshifted window raised a suspicion; None: too small to say."""
    for run in range(runs):
        generator = np.random.default_rng([seed, rows, run])
        per_session = int(generator.integers(1, 11))
        verdict = check_drift(
            draw(pool, rows, per_session, generator),
            draw(pool, rows, per_session, generator, start=1),
            engine="plain",
        )
        yield None if verdict.unknown else verdict.suspected


def sequence(
    pool: Pool, rows: int, runs: int, seed: int, *, new: float = 0.0, windows: int = WINDOWS,
    per_session: int | None = None, reference_rows: int | None = None,
) -> Iterator[int | None]:  # fmt: skip
    """Yield the first window in which drift was confirmed, None if it never was."""
    for run in range(runs):
        generator = np.random.default_rng([seed, rows, run, 1])
        each = int(generator.integers(1, 11)) if per_session is None else per_session
        reference = draw(pool, reference_rows or rows, each, generator)
        verdict: DriftVerdict | None = None
        confirmed = None
        for window in range(1, windows + 1):
            current = draw(pool, rows, each, generator, new=new, start=window)
            verdict = check_drift(reference, current, previous=verdict, engine="plain")
            if verdict.drifted:
                confirmed = window
                break
        yield confirmed


def stock(pool: Pool, rows: int, runs: int, seed: int) -> Iterator[bool | None]:
    """Yield whether Evidently's preset called any column drifted, as `single` draws."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = list(STOCK_COLUMNS)
    for run in range(runs):
        generator = np.random.default_rng([seed, rows, run])
        per_session = int(generator.integers(1, 11))
        frames = []
        for number in (0, 1):
            frame = draw(pool, rows, per_session, generator, start=number)
            # Every row for itself: the preset knows no sessions.
            frame["session_id"] = frame["trace_id"]
            frames.append(frame)
        both = compare(frames[0], frames[1], columns=names)
        definition = DataDefinition(
            numerical_columns=[n for n in names if both.reference[n].dtype.kind == "f"],
            categorical_columns=[n for n in names if both.reference[n].dtype.kind == "O"],
        )
        report = Report([DataDriftPreset(columns=names)], include_tests=True)
        snapshot = report.run(
            Dataset.from_pandas(both.current, data_definition=definition),
            Dataset.from_pandas(both.reference, data_definition=definition),
        )
        tests = [t for t in snapshot.dict()["tests"] if t["name"].startswith("Value Drift")]
        yield any(test["status"] == "FAIL" for test in tests)


def rate(hits: int, runs: int) -> dict[str, Any]:
    """Return a share with its 95 % interval."""
    low, high = wilson_interval(hits, runs)
    return {"hits": hits, "runs": runs, "share": hits / max(1, runs), "low": low, "high": high}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="500 resamples, 20 to 100 sequences, 200 runs"
    )
    parser.add_argument(
        "--rows", type=int, choices=SIZES, nargs="+", default=list(SIZES), help="default: all"
    )
    parser.add_argument(
        "--measure", choices=MEASURES, nargs="+", default=list(MEASURES), help="default: all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/drift_false_alarms.json"))
    options = parser.parse_args()
    runs, power, presets = (500, 200, 100) if options.full else (40, 10, 8)
    chains = FULL_SEQUENCES if options.full else dict.fromkeys(SIZES, 4)
    begun = time.perf_counter()
    pool = make_pool(options.seed)
    results: dict[str, Any] = {
        "rules": DriftRules().__dict__,
        "queries": len(pool.texts),
        "new_queries": len(pool.new),
        "rows": [],
    }

    def report(name: str, rows: int, made: Callable[[], dict[str, Any]], bound: str) -> None:
        started = time.perf_counter()
        entry = {"measure": name, "window_rows": rows, **made(), "bound": bound}
        entry["seconds"] = round(time.perf_counter() - started, 1)
        results["rows"].append(entry)
        print(
            f"{name:<34} {rows:>6}  {entry['hits']:>4}/{entry['runs']:<4} {entry['share']:>6.1%}"
            f" [{entry['low']:.1%}, {entry['high']:.1%}]  {bound:<8}"
            f" unknown {entry.get('unknown', 0):>3}  {entry['seconds']:>7} s",
            flush=True,
        )

    for rows in options.rows if "single" in options.measure else ():
        report(
            "single decision, ours",
            rows,
            lambda r=rows: _count(single(pool, r, runs, options.seed)),
            "≤ 1%",
        )
        report(
            "single decision, stock preset",
            rows,
            lambda r=rows: _count(stock(pool, r, presets, options.seed)),
            "",
        )
    for rows in options.rows if "sequence" in options.measure else ():
        report(
            f"{WINDOWS} windows in a row, ours",
            rows,
            lambda r=rows, c=chains[rows]: _count(
                x is not None for x in sequence(pool, r, c, options.seed)
            ),
            "≤ 3%",
        )
    for share, within in ((0.2, 2), (0.1, 4)) if "power" in options.measure else ():
        report(
            f"{share:.0%} new, confirmed within {within}",
            1000,
            lambda s=share, w=within: _count(
                x is not None
                for x in sequence(
                    pool,
                    1000,
                    power,
                    options.seed,
                    new=s,
                    windows=w,
                    per_session=1,
                    reference_rows=REFERENCE_ROWS,
                )
            ),
            "≥ 95%",
        )
    results["seconds"] = round(time.perf_counter() - begun, 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{results['seconds']} s; {options.out}", file=sys.stderr)


def _count(found: Iterator[bool | None]) -> dict[str, Any]:
    seen = list(found)
    return {**rate(sum(x is True for x in seen), len(seen)), "unknown": seen.count(None)}


if __name__ == "__main__":
    main()
