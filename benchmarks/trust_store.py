"""What the runtime store costs: audit events, claims, approvals, leases, verification.

    python benchmarks/trust_store.py [--store URI] [--rounds 1000] [--writers 4] [--json out.json]

Without ``--store`` a fresh sqlite file in the temporary folder is used; a PostgreSQL URL must name
an empty database. "bare" is the same driver's smallest durable transaction on the same disk; each
operation takes turns with it, so that a busy disk slows both. Times are wall clock; ratios are what
to compare between machines. The writers are processes of their own; a pair is claim with
before-event, then end with after-event: what the store adds to one governed call that writes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.store import SessionTable, Store
from mlflow_agent_plugin.trust import (
    ApprovalQueue,
    AuditKind,
    AuditLog,
    EffectLedger,
    verify_audit,
)

EVE = Actor("eve", "bank", frozenset({"customer"}), verified=True)
CLERK = Actor("bob", "bank", frozenset({"clerk"}), verified=True)
FACTS = {
    "session_id": "s",
    "request_id": "r",
    "actor": EVE,
    "agent": "support",
    "agent_digest": "sha256:" + "0" * 64,
    "tool": "freeze_card",
    "call_id": "c",
}


def measure(
    action: Callable[[int], Any], bare: Callable[[int], Any], rounds: int
) -> dict[str, float]:
    """Take turns between `action` and `bare`; return milliseconds and the ratio of medians."""
    for number in range(20):
        action(-1 - number)
    times: dict[Any, list[float]] = {action: [], bare: []}
    for number in range(rounds):
        for what, taken in times.items():
            start = time.perf_counter()
            what(number)
            taken.append((time.perf_counter() - start) * 1000)
    for taken in times.values():
        taken.sort()
    median = times[action][rounds // 2]
    return {
        "p50_ms": median,
        "p99_ms": times[action][int(rounds * 0.99)],
        "bare_p50_ms": times[bare][rounds // 2],
        "ratio": median / times[bare][rounds // 2],
    }


def write_pair(audit: AuditLog, ledger: EffectLedger, key: str) -> None:
    """What one governed write leaves in the store."""
    with audit.transaction() as transaction:
        ledger.claim(
            key,
            tool="freeze_card",
            arguments_digest="sha256:a",
            owner="o",
            connection=transaction.connection,
        )
        transaction.append(AuditKind.TOOL_CALL_DECIDED, **FACTS, starts={"effect": "write"})
    with audit.transaction() as transaction:
        ledger.finish(key, {"frozen": True}, connection=transaction.connection)
        transaction.append(AuditKind.TOOL_CALL_FINISHED, **FACTS, status="executed")


def run(uri: str, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every operation in one process."""
    results: dict[str, dict[str, float]] = {}
    with Store.open(uri) as store:
        with store.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE bare_commit (n INTEGER)")

        def bare(number: int) -> None:
            raw = store.engine.raw_connection()
            try:
                cursor = raw.cursor()
                if store.dialect == "sqlite":
                    cursor.execute("BEGIN IMMEDIATE")
                cursor.execute(f"INSERT INTO bare_commit VALUES ({number})")
                raw.commit()
            finally:
                raw.close()

        audit = AuditLog(store)
        ledger, queue = EffectLedger(store), ApprovalQueue(store, audit=audit)
        sessions = SessionTable(store)
        sessions.open("s", EVE, "support", "d")

        def lease(number: int) -> None:
            sessions.acquire_lease("s", f"t{number}", 60)
            sessions.release("s", f"t{number}")

        def approval(number: int) -> None:
            made = queue.request(
                ToolCall(f"c{number}", "close_account", {"account": "DE1"}, "s"),
                agent="support",
                agent_digest="d",
                policy_digest="p",
                actor=EVE,
                role="clerk",
                reason="r",
                ttl_seconds=600,
            )
            queue.approve(made.approval_id, CLERK)
            queue.mark_executed(made.approval_id, action_digest=made.action_digest)

        def append(number: int) -> None:
            audit.append(AuditKind.TOOL_CALL_DECIDED, **FACTS, number=number)

        def pair(number: int) -> None:
            write_pair(audit, ledger, f"s:{number}")

        few = max(1, rounds // 5)
        results["audit append"] = measure(append, bare, rounds)
        results["claim + event, end + event"] = measure(pair, bare, rounds)
        results["lease taken and released"] = measure(lease, bare, few)
        results["approval asked, given, used"] = measure(approval, bare, few)
        audit.close()
        start = time.perf_counter()
        verification = verify_audit(store)
        seconds = time.perf_counter() - start
        assert verification.ok, verification
        results["verify, per event"] = {"p50_ms": seconds * 1000 / verification.events}
    return results


def throughput(uri: str, writers: int, rounds: int) -> float:
    """Return write pairs a second of several processes together."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--store", uri, "--rounds", str(rounds), "--writer", str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(writers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    start = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        if process.wait() != 0:
            raise SystemExit("a writer failed")
    return writers * rounds / (time.perf_counter() - start)


def be_a_writer(uri: str, rounds: int, name: str) -> None:
    """Write pairs when told to."""
    with Store.open(uri) as store:
        audit, ledger = AuditLog(store), EffectLedger(store)
        audit.append(AuditKind.REQUEST_RECEIVED)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(rounds):
            write_pair(audit, ledger, f"w{name}:{number}")
        audit.close()


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="database URL")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MLFLOW_AGENTS_KEY_DIR", f"{folder}/keys")
        uri = options.store or f"sqlite:///{folder}/agents.db"
        if options.writer is not None:
            be_a_writer(uri, options.rounds, options.writer)
            return
        results = run(uri, options.rounds)
        rates = {
            writers: throughput(uri, writers, max(1, options.rounds // writers))
            for writers in sorted({1, options.writers})
        }
    columns = ("p50_ms", "p99_ms", "bare_p50_ms", "ratio")
    print(" " * 30 + "".join(f"{name:>13}" for name in columns))
    for name, numbers in results.items():
        cells = (f"{numbers[c]:13.3f}" if c in numbers else " " * 13 for c in columns)
        print(f"{name:30}" + "".join(cells))
    for writers, rate in rates.items():
        print(f"{f'pairs a second, {writers} process(es)':30}{rate:9.0f}")
    if options.json:
        machine = {"machine": platform.machine(), "cpus": os.cpu_count()}
        document = {"results": results, "pairs_per_second": rates, **machine}
        options.json.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
