"""What one audit event costs as the audit grows, and how fast all of it is verified.

    python benchmarks/audit.py [--events 1000 100000 1000000] [--store URI] [--json FILE]

The audit grows to each size in large transactions, through the same log as always, its hashes and
checkpoints real. At each size single events are appended, each durable, in turns with the smallest
durable transaction of the same database; what is compared between sizes is the ratio of the two,
and CPU. Then everything is verified: every hash, every link, every checkpoint's signature. Limits:
an append at the largest size costs at most 1.2 times one at the smallest, and at least 100,000
events are verified per CPU second and core.
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

GROWTH_LIMIT = 1.2
VERIFY_LIMIT = 100_000
AT_ONCE = 5000
ROUNDS = 300


def main() -> int:
    """Measure, print, return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, nargs="*", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--store", help="URL of an empty database; default: sqlite")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        os.environ["MLFLOW_AGENTS_KEY_DIR"] = f"{folder}/keys"
        found = measure(args.store or f"sqlite:///{folder}/agents.db", args.events)
    for size, row in found["sizes"].items():
        print(
            f"{int(size):>10,} events: append {row['append_cpu_ms']:.3f} ms CPU,"
            f" {row['append_ms']:.3f} ms ({row['ratio_to_bare']:.2f} bare commits);"
            f" verify {row['verified_per_second']:,.0f}/s by the clock,"
            f" {row['verified_per_cpu_second']:,.0f} per CPU second"
        )
    print(f"append at the largest over the smallest: {found['append_growth']:.2f}x")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    rates = [row["verified_per_cpu_second"] for row in found["sizes"].values() if row["counts"]]
    slowest = min(rates, default=float("inf"))
    return int(found["append_growth"] > GROWTH_LIMIT or slowest < VERIFY_LIMIT)


def measure(uri: str, sizes: list[int]) -> dict[str, Any]:
    """Return the cost of an append and of verifying, per size."""
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog, verify_audit

    facts = {
        "session_id": "s", "request_id": "r", "agent": "support", "tool": "freeze_card",
        "actor": Actor("eve", "bank", frozenset({"customer"}), verified=True),
        "agent_digest": "sha256:" + "0" * 64, "call_id": "c",
    }  # fmt: skip
    rows: dict[str, Any] = {}
    with Store.open(uri) as store:
        with store.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE bare_commit (n INTEGER)")
        log, written = AuditLog(store), 0
        for size in sorted(sizes):
            while written < size:
                with log.transaction() as transaction:
                    for number in range(min(AT_ONCE, size - written)):
                        transaction.append(
                            AuditKind.TOOL_CALL_DECIDED, **facts, number=written + number
                        )
                written += min(AT_ONCE, size - written)
            times, bare = [], []
            cpu = 0.0
            for number in range(ROUNDS):
                begun, used = time.perf_counter(), time.process_time()
                log.append(AuditKind.TOOL_CALL_DECIDED, **facts, number=number)
                times.append(time.perf_counter() - begun)
                cpu += time.process_time() - used
                begun = time.perf_counter()
                with store.begin() as connection:
                    connection.exec_driver_sql(f"INSERT INTO bare_commit VALUES ({number})")
                bare.append(time.perf_counter() - begun)
            written += ROUNDS
            log.checkpoint()
            begun, before = time.perf_counter(), os.times()
            verified = verify_audit(store)
            seconds, after = time.perf_counter() - begun, os.times()
            if not verified.ok:
                raise SystemExit(str(verified))
            spent = sum(after[:4]) - sum(before[:4])
            append = statistics.median(times)
            rows[str(size)] = {
                "append_ms": append * 1000,
                "append_cpu_ms": cpu / ROUNDS * 1000,
                "ratio_to_bare": append / statistics.median(bare),
                "verified_per_second": verified.events / seconds,
                "verified_per_cpu_second": verified.events / max(spent, 1e-9),
                "counts": size >= 20_000,  # below, starting costs more than verifying
            }
        log.close()
    first, last = rows[str(min(sizes))], rows[str(max(sizes))]
    return {
        "sizes": rows,
        "append_growth": last["append_cpu_ms"] / first["append_cpu_ms"],
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "store": "postgresql" if uri.startswith("postgres") else "sqlite",
    }


if __name__ == "__main__":
    sys.exit(main())
