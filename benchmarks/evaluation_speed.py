"""How long a suite takes with one worker and with two, and whether both give the same bytes.

    python -m evaluations.support.build_suite build/support-workflow
    python benchmarks/evaluation_speed.py BUNDLE build/support-workflow [--limit 800] [--rounds 1]

BUNDLE is a support agent with a trained planner. One and two workers take turns. Wall-clock time on
a busy machine says little; CPU seconds say what the work costs, and their ratio bounds the speed-up
that a free machine of two cores could give: 2 x CPU(1) / CPU(2). Limits, on two free cores: the
3,080 cases in under 4 minutes with two workers, and 1.7 times as fast as with one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.development import Suite, load_suite, run_suite
from mlflow_agent_plugin.package import Bundle, load_bundle
from mlflow_agent_plugin.trust.evidence import write_results


def measure(bundle: Bundle, suite: Suite, workers: int) -> dict[str, Any]:
    """Play the suite once."""
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), _cpu()
        with run_suite(
            bundle, suite, workers=workers, progress=False, journal_dir=Path(folder)
        ) as played:
            digest = write_results([run.result for run in played.runs], Path(folder) / "r.jsonl")
        wall, after = time.perf_counter() - began, _cpu()
    return {
        "workers": workers,
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(after - before, 2),
        "cpu_ms_per_case": round((after - before) / len(suite) * 1000, 1),
        "results_digest": digest,
        "load_average": round(os.getloadavg()[0], 1),
    }


def _cpu() -> float:
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle, suite = load_bundle(options.bundle), load_suite(options.suite)
    if options.limit:
        suite = suite.sample(options.limit)
    runs = [measure(bundle, suite, n) for _ in range(options.rounds) for n in (2, 1)]
    best = {n: min((r for r in runs if r["workers"] == n), key=_wall) for n in (1, 2)}
    found = {
        "cases": len(suite),
        "runs": runs,
        "same_bytes": len({run["results_digest"] for run in runs}) == 1,
        "speed_up_wall": round(best[1]["wall_seconds"] / best[2]["wall_seconds"], 2),
        "speed_up_bound_by_cpu": round(2 * best[1]["cpu_seconds"] / best[2]["cpu_seconds"], 2),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def _wall(run: dict[str, Any]) -> float:
    return float(run["wall_seconds"])


if __name__ == "__main__":
    main()
