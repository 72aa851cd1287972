"""What the plugin adds to two imports: its own, and MLflow's with the plugin installed.

    python benchmarks/import_time.py [--runs 9] [--json out.json]

Every sample is a fresh interpreter. "Hidden" takes this package's entry points out of
`importlib.metadata`, "installed" leaves them in; both go through the same wrapper and take turns,
so that a busy machine slows both. Times are CPU seconds of the process; the ratio compares the
fastest samples, which noise can only lengthen. Modules are those the first import loads, and this
package's own ones for the other two. Limits: 60 ms for our import, 5% for MLflow's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

OWN_LIMIT_SECONDS = 0.060
MLFLOW_LIMIT_RATIO = 1.05

OWN = """
import sys, time
before, start = len(sys.modules), time.process_time()
import mlflow_agent_plugin
print(time.process_time() - start, len(sys.modules) - before)
"""

MLFLOW = """
import importlib.metadata, sys, time
hide, real = {hide}, importlib.metadata.entry_points

def entry_points(**wanted):
    found = real(**wanted)
    ours = "mlflow_agent_plugin"
    kept = [point for point in found if not (hide and point.value.startswith(ours))]
    return importlib.metadata.EntryPoints(kept)

importlib.metadata.entry_points = entry_points
before, start = len(sys.modules), time.process_time()
import mlflow
own = sum(name.startswith("mlflow_agent_plugin") for name in sys.modules)
print(time.process_time() - start, own)
"""


def sample(code: str) -> tuple[float, int]:
    """Run `code` in a fresh interpreter and return its seconds and its count of modules."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = run.stdout.split()[-2:]
    return float(seconds), int(modules)


def summary(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """Return the fastest, median and slowest time, and the modules loaded."""
    seconds = [second for second, _ in samples]
    return {
        "fastest_seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "slowest_seconds": max(seconds),
        "modules": max(modules for _, modules in samples),
    }


def measure(runs: int) -> dict[str, Any]:
    """Measure both imports `runs` times each, after one unmeasured run that fills the caches."""
    own, with_plugin, without = [], [], []
    for code in (OWN, MLFLOW.format(hide=True)):
        sample(code)
    for turn in range(runs):
        print(f"\r{turn + 1}/{runs}", end="", file=sys.stderr, flush=True)
        own.append(sample(OWN))
        with_plugin.append(sample(MLFLOW.format(hide=False)))
        without.append(sample(MLFLOW.format(hide=True)))
    print(file=sys.stderr)
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "runs": runs,
        "import mlflow_agent_plugin": summary(own),
        "import mlflow, plugin installed": summary(with_plugin),
        "import mlflow, plugin hidden": summary(without),
    }
    after, before = (
        result[f"import mlflow, plugin {word}"]["fastest_seconds"]
        for word in ("installed", "hidden")
    )
    result["ratio"] = after / before
    result["within_limits"] = (
        result["import mlflow_agent_plugin"]["median_seconds"] < OWN_LIMIT_SECONDS
        and result["ratio"] < MLFLOW_LIMIT_RATIO
    )
    return result


def table(result: dict[str, Any]) -> str:
    """Return the result as a text table."""
    lines = [f"{'CPU seconds':<34}{'fastest':>9}{'median':>9}{'slowest':>9}{'modules':>9}"]
    for name, values in result.items():
        if isinstance(values, dict):
            times = "".join(
                f"{values[f'{key}_seconds']:>9.4f}" for key in ("fastest", "median", "slowest")
            )
            lines.append(f"{name:<34}{times}{values['modules']:>9}")
    lines.append(f"ratio installed / hidden: {result['ratio']:.4f} (limit {MLFLOW_LIMIT_RATIO})")
    lines.append(f"within limits: {'yes' if result['within_limits'] else 'NO'}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    result = measure(options.runs)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["within_limits"] else 1


if __name__ == "__main__":
    sys.exit(main())
