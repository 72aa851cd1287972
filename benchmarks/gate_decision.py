"""How long one gate decision takes in a registry that has grown.

    python benchmarks/gate_decision.py [--versions 1000] [--evidence 10000]

One model on sqlite with that many agent versions and pieces of evidence. The candidate is judged on
3,080 cases: its content is hashed again, its evidence verified (signature, results digest), the
incumbent compared. Times are CPU milliseconds of `gate_report` after the first one, which reads the
results once. Limit: p50 under 20 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

LIMIT_MS = 20.0
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Print the times; return 1 if the median is over the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--evidence", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=60)
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
        times = _measure(place, args.versions, args.evidence, args.rounds)
    p50, p95 = statistics.median(times), sorted(times)[int(len(times) * 0.95)]
    print(
        f"{args.versions:,} versions, {args.evidence:,} pieces of evidence:"
        f" p50 {p50:.1f} ms, p95 {p95:.1f} ms"
    )
    return int(p50 > LIMIT_MS)


def _measure(place: Path, versions: int, evidence: int, rounds: int) -> list[float]:
    from helpers.registry_world import World
    from sqlalchemy import insert, select

    from mlflow_agent_plugin.registry import gate_report, tables

    world = World(place, f"agents+sqlite:///{place}/mlflow.db")
    world.promoted("one")
    candidate = world.register("two")
    world.ready(candidate, good=3080)
    with world.store.engine.begin() as connection:
        row = dict(connection.execute(select(tables.versions)).mappings().first())
        names = ("content_digest", "agent_digest")
        many = [
            {**row, "version": n, **dict.fromkeys(names, f"sha256:{n:064x}")}
            for n in range(3, versions + 3)
        ]
        connection.execute(insert(tables.versions), many)
        row = dict(connection.execute(select(tables.evidence)).mappings().first())
        more = [
            {**row, "evidence_id": uuid.uuid4().hex, "agent_digest": f"sha256:{n:064x}"}
            for n in range(3, evidence + 3)
        ]
        connection.execute(insert(tables.evidence), more)
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        report = gate_report("shelf", candidate, to="Production", client=world.client)
        times.append((time.process_time() - start) * 1000)
        assert report.passed, report.to_text()
    return times[1:]


if __name__ == "__main__":
    sys.exit(main())
