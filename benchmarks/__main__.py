"""Runs the benchmarks one after the other; writes JSON and a chart.

    python -m benchmarks [NAME ...] [--full] [--out build/benchmarks] [--list]

Each runs in a process of its own and leaves ``<out>/<name>.json`` and ``<name>.log``;
``summary.json`` says which ran, how long, and whether their own limits held; ``growth.svg`` shows
how cost grows with size. Short sizes by default; ``--full`` uses the sizes of the promises (100,000
versions, 10 million audit events, a million rows, a soak of half an hour) and takes hours. Measure
on a machine that does nothing else: every result carries the load it was measured under.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """One script of this folder.

    Attributes:
        name: What it is called here.
        script: Its file.
        short: Arguments of a short run.
        full: Arguments of a full run.
        about: What it measures, and its limit.
        full_only: Left out of a short run unless it is asked for by name.
    """

    name: str
    script: str
    short: tuple[str, ...]
    full: tuple[str, ...]
    about: str
    full_only: bool = False


SIZES = ("10", "1000")
SUPPORT = "the trained support agent"
SUITE = str(HERE.parent / "evaluations" / "support" / "journeys.yaml")
BENCHMARKS = (
    Benchmark("import", "import_time.py", ("--runs", "3"), (), "import time"),
    Benchmark(
        "served", "served_request.py", ("--rounds", "100", "--seconds", "3", "--starts", "0"), (),
        "request and cold start against the same graph ungoverned: 1.15x p50, 0.85x rate, 1.2x",
    ),
    Benchmark(
        "served_traced", "served_request.py",
        ("--tracing", "--rounds", "100", "--seconds", "3", "--starts", "0"), ("--tracing",),
        "the same, both traced",
    ),
    Benchmark(
        "two_workers", "two_workers.py", ("--seconds", "3", "--blocks", "2"), (),
        "two workers on PostgreSQL against one: at least 1.7x",
    ),
    Benchmark(
        "governed_call", "governed_call.py", ("--rounds", "300"), (),
        "one governed tool call against peers",
    ),
    Benchmark(
        "registry", "registry.py", ("--rounds", "60", "--versions", *SIZES),
        ("--versions", *SIZES, "100000"),
        "ordinary models against stock: 1.05x; gate decision: 50 ms",
    ),
    Benchmark(
        "gate", "gate_decision.py", ("--versions", "100", "--evidence", "1000", "--rounds", "10"),
        ("--versions", "100000", "--evidence", "1000000"), "gate decision: 20 ms",
    ),
    Benchmark(
        "audit", "audit.py", ("--events", "1000", "20000"),
        ("--events", "1000", "100000", "1000000", "10000000"),
        "append flat, verify 100,000 events/s",
    ),
    Benchmark(
        "evaluation", "evaluation_speed.py", (SUPPORT, SUITE), (SUPPORT, SUITE, "--rounds", "3"),
        "a suite by one worker and by two: the same bytes, twice as fast",
    ),
    *(
        Benchmark(
            f"monitoring_{label}", "monitoring.py", ("--rows", str(rows)), ("--rows", str(rows)),
            f"table, metrics and drift of {rows:,} rows", full_only=rows > 100_000,
        )
        for label, rows in (("10k", 10_000), ("100k", 100_000), ("1m", 1_000_000))
    ),
    Benchmark(
        "soak", "soak.py", ("--minutes", "1", "--peak-seconds", "4"), ("--minutes", "30"),
        "steady load: memory, errors, p99",
    ),
)  # fmt: skip


def main() -> int:
    """Run what was asked for; return how many broke a limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--full", action="store_true", help="the sizes of the promises; hours")
    parser.add_argument("--out", type=Path, default=Path("build") / "benchmarks")
    parser.add_argument("--list", action="store_true", help="say what there is")
    args = parser.parse_args()
    if args.list:
        for each in BENCHMARKS:
            print(f"{each.name:<14} {each.about}")
        return 0
    known = {each.name: each for each in BENCHMARKS}
    unknown = sorted(set(args.names) - set(known))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = args.names or [each.name for each in BENCHMARKS if args.full or not each.full_only]
    done = [run(known[name], args.out, full=args.full) for name in chosen]
    summary = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "full": args.full,
        "benchmarks": done,
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    draw(args.out)
    return sum(not each["within_limits"] for each in done)


def run(benchmark: Benchmark, out: Path, *, full: bool) -> dict[str, Any]:
    """Run one; return what the summary says of it."""
    result = out / f"{benchmark.name}.json"
    result.unlink(missing_ok=True)
    given = benchmark.full if full else benchmark.short
    arguments = tuple(support(out) if each == SUPPORT else each for each in given)
    print(f"{benchmark.name}: {benchmark.about}", flush=True)
    begun, load = time.perf_counter(), os.getloadavg()[0]
    log = out / f"{benchmark.name}.log"
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            [sys.executable, str(HERE / benchmark.script), *arguments, "--json", str(result)],
            stdout=output, stderr=subprocess.STDOUT, check=False,
        ).returncode  # fmt: skip
    said = log.read_text("utf-8", "replace").strip().splitlines()
    for line in said[-4:]:
        print(f"  {line}", flush=True)
    return {
        "name": benchmark.name,
        "about": benchmark.about,
        "arguments": list(arguments),
        "seconds": round(time.perf_counter() - begun, 1),
        "load_average_before": round(load, 1),
        "wrote": result.exists(),
        "within_limits": status == 0,
    }


def support(out: Path) -> str:
    """Return the folder of the support agent, its planner trained."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from served_request import trained_support

    return str(trained_support(out))


def growth(out: Path) -> dict[str, tuple[list[int], list[float], str]]:
    """Return how costs grow: label to sizes, costs and their unit."""
    found: dict[str, tuple[list[int], list[float], str]] = {}
    audit, registry = out / "audit.json", out / "registry.json"
    if audit.exists():
        sizes = json.loads(audit.read_text("utf-8"))["sizes"]
        counts = [int(size) for size in sizes]
        found["audit append"] = (counts, [row["append_cpu_ms"] for row in sizes.values()], "ms CPU")
        # Where there are few events, starting costs more than verifying.
        large = {size: row for size, row in sizes.items() if row["counts"]}
        if large:
            found["audit verify"] = (
                [int(size) for size in large],
                [1e6 / row["verified_per_cpu_second"] for row in large.values()],
                "µs CPU per event",
            )
    months = {
        rows: json.loads((out / f"monitoring_{label}.json").read_text("utf-8"))["phases"]
        for label, rows in (("10k", 10_000), ("100k", 100_000), ("1m", 1_000_000))
        if (out / f"monitoring_{label}.json").exists()
    }
    if months:
        for phase, title in (("measure", "metrics of a month"), ("judge", "drift of a month")):
            costs = [found_in[phase]["cpu_s"] for found_in in months.values()]
            found[title] = (list(months), costs, "s CPU")
    if registry.exists():
        decisions = json.loads(registry.read_text("utf-8"))["decision_ms"]
        found["gate decision"] = (
            [int(size) for size in decisions],
            [row["p50"] for row in decisions.values()],
            "ms CPU",
        )
    return found


def draw(out: Path) -> None:
    """Draw how costs grow, one small plot each."""
    found = growth(out)
    if not found:
        return
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3), squeeze=False)
    for axis, (title, (sizes, costs, unit)) in zip(axes[0], found.items(), strict=True):
        axis.plot(sizes, costs, marker="o")
        axis.set(title=title, xscale="log", xlabel="size", ylabel=unit)
        axis.set_ylim(bottom=0, top=1.4 * max(costs))
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out / "growth.svg")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
