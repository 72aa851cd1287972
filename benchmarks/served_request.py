"""What governing a served request costs: our model beside the same graph as a stock ResponsesAgent.

    python benchmarks/served_request.py [--rounds 300] [--seconds 5] [--starts 2] [--json FILE]

Both are the support agent with the same planner, tools and session store, served by the same
``mlflow models serve``, neither traced; with ``--tracing`` both are, ours to its spool and on, the
peer by MLflow's autologging. Every request is a new conversation with reads through tools.
Latency: requests take turns, one server after the other, so that a busy machine slows both.
Throughput: blocks of `--seconds` with `--clients` connections take turns, too. ``cpu_ms`` is what a
request costs the server's processes: on a loaded machine it says more than the clock. Cold start is
from the command to the first answer. With ``--store URI`` the runtime store and both session stores
are on PostgreSQL. The peer saves its state before each next step, as ours does before each tool;
with ``--peer-durability async``, LangGraph's default, while the next step runs.

Limits: p50 at most 1.15x, throughput at least 0.85x, cold start at most 1.2x.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEXT = "Where is my card? It has not arrived yet."
TOOL = "track_card_delivery"
START_SECONDS = 300.0
LIMITS = {"p50": 1.15, "throughput": 0.85, "cold_start": 1.2}


class Served:
    """One ``mlflow models serve`` in a process group of its own."""

    def __init__(self, name: str, model: str, environment: dict[str, str], token: str) -> None:
        self.name, self.model, self.environment, self.token = name, model, environment, token
        self._body_rest = {"custom_inputs": {"actor_token": token}} if token else {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path(environment["BENCHMARK_FOLDER"]) / f"{name}.log"
        self.workers = 1

    def start(self) -> float:
        """Start it; return the seconds from the command to the first answer."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        mlflow = str(Path(sys.executable).parent / "mlflow")
        begun = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [mlflow, "models", "serve", "-m", self.model, "--env-manager", "local",
                 "--port", str(self.port), "--workers", str(self.workers)],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        while True:
            with contextlib.suppress(OSError):
                connection = self.connect()
                self.ask(connection)
                return time.perf_counter() - begun
            if self.process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise SystemExit(f"{self.name} does not answer: {self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection that is kept."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.connect()
        return connection

    def ask(self, connection: http.client.HTTPConnection) -> float:
        """Send one request; return its seconds."""
        body = json.dumps(
            {
                "input": [{"role": "user", "content": TEXT}],
                "context": {"conversation_id": uuid.uuid4().hex},
                **self._body_rest,
            }
        )
        begun = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - begun
        if response.status != 200:
            raise SystemExit(f"{self.name}: {response.status} {answer.decode()[:500]}")
        told = json.loads(answer)["custom_outputs"]
        ran = told.get("tools") or [
            call["tool"] for call in told["calls"] if call["status"] == "executed"
        ]
        if TOOL not in ran:
            raise SystemExit(f"{self.name} ran {ran}, not {TOOL}")
        return seconds

    def cpu_seconds(self) -> float:
        """CPU time of its whole process group so far."""
        assert self.process is not None
        ticks, group = 0, str(self.process.pid)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if fields[2] == group:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def trained_support(folder: Path) -> Path:
    """Return the support agent's bundle in `folder`, trained on the project's own small set."""
    from mlflow_agent_plugin.foundation import train_planner
    from pipelines.data import SMALL_SET, read_labelled

    bundle = folder / "support"
    if not bundle.exists():
        shutil.copytree(
            ROOT / "agents" / "support", bundle,
            ignore=shutil.ignore_patterns("__pycache__", "planner"),
        )  # fmt: skip
        examples = read_labelled(SMALL_SET / "train.csv")
        planner = train_planner(examples["text"].tolist(), examples["category"].tolist())
        planner.save(bundle / "model" / "planner")
    return bundle


def prepare(
    folder: Path,
    store: str | None,
    *,
    tracing: bool,
    peer: bool = True,
    peer_durability: str = "sync",
) -> tuple[Served, ...]:
    """Train, log and return our server and, if wanted, the peer's; not yet started."""
    os.environ.update(
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
        MLFLOW_AGENTS_KEY_DIR=str(folder / "keys"),
        MLFLOW_AGENTS_STORE_URI=store or f"sqlite:///{folder}/agents.db",
        MLFLOW_AGENTS_SPOOL_DIR=str(folder / "spool"),
        MLFLOW_AGENTS_RESOURCES=json.dumps({"path": str(folder / "bank.db")}),
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_AGENTS_TRACING=str(tracing).lower(),
        UNGOVERNED_TRACING=str(tracing).lower(),
        UNGOVERNED_DURABILITY=peer_durability,
        BENCHMARK_FOLDER=str(folder),
        UNGOVERNED_BUNDLE=str(folder / "support"),
        UNGOVERNED_STORE=store or f"sqlite:///{folder}/sessions.db",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    import mlflow

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.trust import KeyStore, issue_token

    bundle = trained_support(folder)
    ours = agents.log_agent(bundle, register_prompts=False)
    token = issue_token(
        Actor("amira", roles=frozenset({"customer"})), KeyStore().signing_key(), 86_400
    )
    environment = dict(os.environ)
    servers = [Served("governed", ours.model_uri, environment, token)]
    if peer:
        script = ROOT / "benchmarks" / "ungoverned_agent.py"
        logged = mlflow.pyfunc.log_model(name="ungoverned", python_model=str(script))
        servers.append(Served("ungoverned", logged.model_uri, environment, ""))
    return tuple(servers)


@contextlib.contextmanager
def running(*servers: Served) -> Iterator[list[float]]:
    """Run servers for the length of the block; gives their cold starts."""
    try:
        yield [server.start() for server in servers]
    finally:
        for server in servers:
            server.stop()


def latency(servers: tuple[Served, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Take turns, request by request."""
    connections = {server: server.connect() for server in servers}
    for server, connection in connections.items():
        for _ in range(20):
            server.ask(connection)
    times: dict[Served, list[float]] = {server: [] for server in servers}
    cpu = dict.fromkeys(servers, 0.0)
    for _ in range(rounds // 10):
        for server, connection in connections.items():
            before = server.cpu_seconds()
            times[server] += [server.ask(connection) for _ in range(10)]
            cpu[server] += server.cpu_seconds() - before
    return {
        server.name: {
            "p50_ms": statistics.median(found) * 1000,
            "p95_ms": sorted(found)[int(len(found) * 0.95)] * 1000,
            "cpu_ms": cpu[server] / len(found) * 1000,
        }
        for server, found in times.items()
    }


def throughput(servers: Sequence[Served], seconds: float) -> float:
    """Return requests a second over a connection to each of `servers`, however often named."""
    until = time.perf_counter() + seconds

    def client(server: Served) -> int:
        count, connection = 0, server.connect()
        while time.perf_counter() < until:
            server.ask(connection)
            count += 1
        return count

    begun = time.perf_counter()
    with ThreadPoolExecutor(len(servers)) as pool:
        count = sum(pool.map(client, servers))
    return count / (time.perf_counter() - begun)


def measure(
    folder: Path,
    *,
    store: str | None,
    rounds: int,
    seconds: float,
    clients: int,
    starts: int,
    tracing: bool,
    peer_durability: str,
) -> dict[str, Any]:
    """Return everything measured."""
    servers = prepare(folder, store, tracing=tracing, peer_durability=peer_durability)
    colds: list[list[float]] = []
    for _ in range(starts):
        with running(*servers) as cold:
            colds.append(cold)
    with running(*servers) as cold:
        colds.append(cold)
        found: dict[str, Any] = latency(servers, rounds)
        rates: dict[str, list[float]] = {server.name: [] for server in servers}
        for _ in range(3):
            for server in servers:
                rates[server.name].append(throughput([server] * clients, seconds))
    for number, server in enumerate(servers):
        found[server.name] |= {
            "per_second": statistics.median(rates[server.name]),
            "cold_start_s": statistics.median(cold[number] for cold in colds),
        }
    ours, peer = found["governed"], found["ungoverned"]
    return {
        **found,
        "ratios": {
            "p50": ours["p50_ms"] / peer["p50_ms"],
            "cpu": ours["cpu_ms"] / peer["cpu_ms"],
            "throughput": ours["per_second"] / peer["per_second"],
            "cold_start": ours["cold_start_s"] / peer["cold_start_s"],
        },
        "store": "postgresql" if store else "sqlite",
        "tracing": tracing,
        "peer_durability": peer_durability,
        "load_average": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }


def main() -> int:
    """Measure, print, return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--starts", type=int, default=2, help="cold starts beside the measured one")
    parser.add_argument("--tracing", action="store_true", help="trace both")
    parser.add_argument("--peer-durability", choices=("sync", "async", "exit"), default="sync")
    parser.add_argument("--store", help="URL of an empty PostgreSQL database")
    parser.add_argument("--folder", type=Path, help="keep the trained agent here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="served-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(
            folder.resolve(), store=args.store, rounds=args.rounds, seconds=args.seconds,
            clients=args.clients, starts=args.starts, tracing=args.tracing,
            peer_durability=args.peer_durability,
        )  # fmt: skip
    for name in ("governed", "ungoverned"):
        print(
            f"{name:<11}" + "  ".join(f"{key} {value:8.2f}" for key, value in result[name].items())
        )
    ratios = result["ratios"]
    print("ratios     " + "  ".join(f"{key} {value:.3f}" for key, value in ratios.items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    good = (
        ratios["p50"] <= LIMITS["p50"]
        and ratios["throughput"] >= LIMITS["throughput"]
        and ratios["cold_start"] <= LIMITS["cold_start"]
    )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
