"""How long one gate decision takes in a registry that has grown.

    python benchmarks/gate_decision.py [--versions 1000] [--evidence 10000] [--json FILE]

One model on sqlite with that many agent versions and pieces of evidence. The candidate is judged on
3,080 cases: its content is hashed again, its evidence verified (signature, results digest), the
incumbent compared. Times are CPU milliseconds of `gate_report` after the first one, which reads the
results once. Limit: p50 under 20 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT_MS = 20.0
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Print the times; return 1 if the median is over the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--evidence", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gate-decision-") as folder:
        place = Path(folder)
        os.environ.update(
            MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db",
            MLFLOW_AGENTS_KEY_DIR=str(place / "keys"),
            MLFLOW_AGENTS_STORE_URI=f"sqlite:///{place}/agents.db",
            MLFLOW_AGENTS_ACTOR="bob",
        )
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        times = measure(place, args.versions, args.evidence, args.rounds)
    p50, p95 = statistics.median(times), sorted(times)[int(len(times) * 0.95)]
    print(
        f"{args.versions:,} versions, {args.evidence:,} pieces of evidence:"
        f" p50 {p50:.1f} ms, p95 {p95:.1f} ms"
    )
    if args.json is not None:
        found = {
            "versions": args.versions,
            "evidence": args.evidence,
            "rounds": args.rounds,
            "cpu_ms_p50": round(p50, 2),
            "cpu_ms_p95": round(p95, 2),
            "load_average": os.getloadavg()[0],
        }
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(p50 > LIMIT_MS)


HASHED = "printf('sha256:%064x', n)"


def _multiply(connection: Any, table: Any, count: int, **changed: str) -> None:
    """Copy a table's first row so many times, each about another agent."""
    from sqlalchemy import text

    changed["agent_digest"] = HASHED
    columns = [column.name for column in table.columns]
    values = ", ".join(changed.get(column, column) for column in columns)
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(columns)}) "
            f"WITH RECURSIVE numbers(n) AS "
            f"(SELECT 1000 UNION ALL SELECT n + 1 FROM numbers WHERE n < 999 + :count) "
            f"SELECT {values} FROM numbers, (SELECT * FROM {table.name} LIMIT 1)"
        ),
        {"count": count},
    )


def measure(place: Path, versions: int, evidence: int, rounds: int) -> list[float]:
    """Return the CPU milliseconds of each decision."""
    from helpers.registry_world import World

    from mlflow_agent_plugin.registry import gate_report, tables

    world = World(place, f"agents+sqlite:///{place}/mlflow.db")
    world.promoted("one")
    candidate = world.register("two")
    world.ready(candidate, good=3080)
    with world.store.engine.begin() as connection:
        _multiply(connection, tables.versions, versions, version="n", content_digest=HASHED)
        name = "printf('%032x', n)"
        _multiply(connection, tables.evidence, evidence, evidence_id=name)
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        report = gate_report("shelf", candidate, to="Production", client=world.client)
        times.append((time.process_time() - start) * 1000)
        assert report.passed, report.to_text()
    return times[1:]


if __name__ == "__main__":
    sys.exit(main())
