"""What the monitoring table costs: a month of traffic, one new day, metrics, a drift verdict.

    python benchmarks/monitoring.py --rows 1000000

Rows are put into the table as a build does (`add_rows`); reading them from a tracking server comes
on top, in proportion to the new traces. Every phase is a process of its own, so its CPU time and
peak memory are its own. The peer is pandas: writing the same day with `DataFrame.to_parquet`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
DAYS = 30
NEW_DAY_ROWS = 10_000
RESULTS = Path(__file__).parent / "results" / "monitoring.json"
WORDS = (
    "my",
    "card",
    "payment",
    "transfer",
    "has",
    "not",
    "arrived",
    "yet",
    "top",
    "up",
    "pending",
)


def make_rows(first: int, count: int, day: datetime) -> Iterator[dict[str, Any]]:
    """Yield `count` requests of one day, two per session."""
    import numpy as np

    generator = np.random.default_rng(first)
    for number in range(first, first + count):
        intent = int(generator.zipf(1.6)) % 77
        words = generator.choice(WORDS, 3 + number % 9)
        yield {
            "trace_id": f"tr-{number:032x}",
            "event_time": day + timedelta(seconds=(number - first) * 86_000 / count),
            "agent": "support", "agent_digest": "sha256:aa", "version": "3",
            "session_id": f"s{number // 2}", "tenant": f"t{number % 20}", "user_hash": "u",
            "text": " ".join(words), "intent": f"intent_{intent}",
            "confidence": float(generator.beta(6, 2)), "outcome": "answered",
            "tools": [f"tool_{intent % 26}"], "calls": 1, "executed": 1, "denied": 0,
            "rejected": 0, "failed": 0, "approvals": 0, "escalated": False, "clarified": False,
            "model_calls": 2, "input_tokens": 30 + number % 40, "output_tokens": 12,
            "cost_usd": 0.0, "seconds": float(generator.lognormal(-3, 0.3)),
        }  # fmt: skip


def build(folder: Path, rows: int) -> None:
    """Write the month."""
    from mlflow_agent_plugin.observability.days import add_rows

    for day in range(DAYS):
        count = rows // DAYS
        add_rows(folder, make_rows(day * count, count, START + timedelta(days=day)), set())


def new_day(folder: Path, rows: int) -> None:
    """Add one day to the month."""
    from mlflow_agent_plugin.observability.days import add_rows

    add_rows(folder, make_rows(rows, NEW_DAY_ROWS, START + timedelta(days=DAYS)), set())


def new_day_pandas(folder: Path, rows: int) -> None:
    """Write the same day with pandas alone."""
    import pandas as pd

    day = START + timedelta(days=DAYS)
    frame = pd.DataFrame(make_rows(rows, NEW_DAY_ROWS, day))
    frame.to_parquet(folder / "peer.parquet")


def measure(folder: Path, rows: int) -> None:
    """Compute all metrics of the month."""
    del rows
    from mlflow_agent_plugin.observability import compute_task_metrics, read_table

    compute_task_metrics(read_table(folder))


def judge(folder: Path, rows: int) -> None:
    """Compare the month's second half with its first, and write the report."""
    del rows
    from mlflow_agent_plugin.observability import check_drift, read_table

    frame = read_table(folder)
    half = START + timedelta(days=DAYS // 2)
    before, after = frame[frame["event_time"] < half], frame[frame["event_time"] >= half]
    check_drift(before, after, report_dir=folder.parent / "report")


def timed(phase: Callable[[Path, int], None], folder: Path, rows: int) -> dict[str, float]:
    """Run `phase` in a process of its own and return what it took."""

    def run(pipe: Any) -> None:
        begun = time.perf_counter()
        phase(folder, rows)
        mine = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = sum(used.ru_utime + used.ru_stime for used in (mine, children))
        peak = max(mine.ru_maxrss, children.ru_maxrss) / 1e6
        pipe.send({"wall_s": time.perf_counter() - begun, "cpu_s": cpu, "peak_gb": peak})

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=run, args=(theirs,))
    process.start()
    theirs.close()
    found: dict[str, float] = ours.recv()
    process.join()
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    """Run every phase and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "table"
        folder.mkdir()
        phases = (build, new_day, new_day_pandas, measure, judge)
        found = {phase.__name__: timed(phase, folder, options.rows) for phase in phases}
    found["new_day"]["cpu_ratio_to_pandas"] = round(
        found["new_day"]["cpu_s"] / found["new_day_pandas"]["cpu_s"], 2
    )
    document = {"rows": options.rows, "new_day_rows": NEW_DAY_ROWS, "phases": found}
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
