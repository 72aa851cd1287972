"""What a second worker on the same PostgreSQL is worth.

    python benchmarks/two_workers.py [--seconds 5] [--blocks 3] [--clients 6] [--json FILE]

The support agent, served by two ``mlflow models serve`` of one worker each, sessions and audit in
a PostgreSQL this script starts. Blocks take turns: all clients at one of them, or half of them at
each, as a balancer would send them. (Two workers behind one port share connections as the kernel
pleases: now and then one gets all.) Two numbers: requests a second by the clock, which needs cores
for two workers, the database and the clients (four, not two); and requests per CPU second of the
server's processes, whose ratio, doubled, is what two workers make of cores they have to themselves:
it falls where they spin on each other or repeat each other's work. ``cpu_ms`` says where a
request's CPU goes: what is not the workers' own is what the clock misses on few cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.postgres_server import PostgresServer

ROOT = Path(__file__).parents[1]
LIMIT = 1.7


def main() -> int:
    """Measure, print, return 1 if the second worker is worth less than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="keep the trained agent here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    from helpers.postgres_server import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        with tempfile.TemporaryDirectory(prefix="two-workers-") as scratch:
            folder = (args.folder or Path(scratch)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            result = measure(folder, server, args.seconds, args.blocks, args.clients)
    finally:
        server.close()
    for name in ("one", "two"):
        print(
            f"{name} worker(s): {result[name]['per_second']:.1f} requests/s,"
            f" {result[name]['per_cpu_second']:.1f} per CPU second; a request's CPU in ms: "
            + ", ".join(f"{of} {ms:.1f}" for of, ms in result[name]["cpu_ms"].items())
        )
    print(
        f"two over one: {result['by_clock']:.2f}x by the clock on {os.cpu_count()} cores (load"
        f" {result['load_average']:.1f}), {result['by_cpu']:.2f}x on cores of their own"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(max(result["by_clock"], result["by_cpu"]) < LIMIT)


def database_cpu_seconds(server: PostgresServer) -> float:
    """CPU time of a server's main process and all its children, the dead included."""
    main, ticks = str(server.pid), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if main in (stat.parent.name, fields[1]):
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(
    folder: Path, database: PostgresServer, seconds: float, blocks: int, clients: int
) -> dict[str, Any]:
    """Return rates with one worker and with two."""
    from served_request import prepare, running, throughput

    (first,) = prepare(folder, database.create_database(), tracing=False, peer=False)
    second = type(first)("second", first.model, first.environment, first.token)
    found: dict[str, Any] = {}
    with running(first, second):
        rates: dict[str, list[float]] = {"one": [], "two": []}
        spent = {name: dict.fromkeys(("workers", "database", "clients"), 0.0) for name in rates}
        clocks = {
            "workers": lambda: first.cpu_seconds() + second.cpu_seconds(),
            "database": partial(database_cpu_seconds, database),
            "clients": time.process_time,
        }
        for server in (first, second):
            throughput([server] * clients, 3.0)
        for _ in range(blocks):
            for name, targets in (("one", (first, first)), ("two", (first, second))):
                before = {of: clock() for of, clock in clocks.items()}
                asked = [targets[number % 2] for number in range(clients)]
                rates[name].append(throughput(asked, seconds))
                for of, clock in clocks.items():
                    spent[name][of] += clock() - before[of]
    for name, measured in rates.items():
        requests = sum(measured) * seconds
        found[name] = {
            "per_second": statistics.median(measured),
            "per_cpu_second": requests / spent[name]["workers"],
            "cpu_ms": {of: cpu / requests * 1000 for of, cpu in spent[name].items()},
        }
    return {
        **found,
        "by_clock": found["two"]["per_second"] / found["one"]["per_second"],
        "by_cpu": 2 * found["two"]["per_cpu_second"] / found["one"]["per_cpu_second"],
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
