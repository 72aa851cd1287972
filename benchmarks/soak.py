"""A served agent under steady load for a long time: memory, errors, slowest answers.

    python benchmarks/soak.py [--minutes 30] [--share 0.7] [--clients 4] [--json FILE]

The support agent behind ``mlflow models serve``, traced, on sqlite. First its peak is measured,
then requests arrive at `--share` of it, at fixed times, whether earlier ones have been answered or
not. Memory is the resident size of all its processes. Limits: no error; memory grows by less than
5% between the second fifth (the first counts as warm-up) and the last; the p99 of the last third is
at most 1.5 times that of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GROWTH_LIMIT = 0.05
TAIL_LIMIT = 1.5
KEPT_SECONDS = 2.0


def main() -> int:
    """Soak, print, return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--peak-seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="keep the trained agent here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        result = soak(
            folder, minutes=args.minutes, share=args.share, clients=args.clients,
            peak_seconds=args.peak_seconds,
        )  # fmt: skip
    print(
        f"{result['requests']} requests in {result['minutes']:.1f} minutes at"
        f" {result['rate']:.1f}/s ({args.share:.0%} of {result['peak']:.1f}/s):"
        f" {result['errors']} errors, memory {result['memory_mb'][0]:.0f} ->"
        f" {result['memory_mb'][1]:.0f} MB ({result['growth']:+.1%}),"
        f" p99 {result['p99_ms'][0]:.0f} -> {result['p99_ms'][-1]:.0f} ms"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(not result["within_limits"])


def soak(
    folder: Path, *, minutes: float, share: float, clients: int, peak_seconds: float
) -> dict[str, Any]:
    """Run the soak and return what was seen."""
    from served_request import prepare, running, throughput

    (server,) = prepare(folder, None, tracing=True, peer=False)
    with running(server):
        throughput([server] * clients, peak_seconds)
        peak = throughput([server] * clients, peak_seconds)
        rate = max(0.5, peak * share)
        load = Load(server, rate, minutes * 60, threads=4 * clients)
        samples = load.run()
    fifth = max(1, len(samples) // 5)
    memory = [
        statistics.median(part)
        for part in (samples[fifth : 2 * fifth] or samples, samples[-fifth:])
    ]
    third = max(1, len(load.seconds) // 3)
    tails = [
        sorted(part)[int(len(part) * 0.99)] * 1000
        for part in (
            load.seconds[:third],
            load.seconds[third : 2 * third],
            load.seconds[2 * third :],
        )
        if part
    ]
    growth = memory[1] / memory[0] - 1
    return {
        "requests": len(load.seconds),
        "errors": len(load.errors),
        "first_error": load.errors[0] if load.errors else None,
        "minutes": minutes,
        "peak": peak,
        "rate": rate,
        "memory_mb": memory,
        "growth": growth,
        "p99_ms": tails,
        "load_average": os.getloadavg()[0],
        "within_limits": not load.errors
        and growth < GROWTH_LIMIT
        and tails[-1] <= TAIL_LIMIT * tails[0],
    }


class Load:
    """An open load: requests at fixed times from a pool of connections."""

    def __init__(self, server: Any, rate: float, seconds: float, *, threads: int) -> None:
        self._server, self._rate, self._length = server, rate, seconds
        self._due: queue.Queue[float | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._client) for _ in range(threads)]
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def run(self) -> list[float]:
        """Send everything; return the server's memory over time, in MB."""
        for thread in self._threads:
            thread.start()
        samples: list[float] = []
        begun = time.perf_counter()
        next_sample = begun
        for number in range(int(self._rate * self._length)):
            due = begun + number / self._rate
            while (wait := due - time.perf_counter()) > 0:
                time.sleep(min(wait, 0.5))
            if time.perf_counter() >= next_sample:
                samples.append(memory_mb(self._server))
                next_sample += max(1.0, self._length / 200)
            self._due.put(due)
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()
        return samples

    def _client(self) -> None:
        connection: http.client.HTTPConnection | None = None
        used = 0.0
        while (due := self._due.get()) is not None:
            if time.perf_counter() - used > KEPT_SECONDS:
                connection = None  # the server closes what is idle, as it may
            try:
                connection = connection or self._server.connect()
                self._server.ask(connection)
                used = time.perf_counter()
            except (OSError, SystemExit, http.client.HTTPException) as error:
                connection = None
                with self._lock:
                    self.errors.append(str(error)[:300])
                continue
            with self._lock:  # from when it was due: waiting for a free connection counts
                self.seconds.append(time.perf_counter() - due)


def memory_mb(server: Any) -> float:
    """Return the resident memory of all the server's processes."""
    pages, group = 0, str(server.process.pid)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[2] == group:
                pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
