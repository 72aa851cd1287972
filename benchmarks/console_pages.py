"""How long the console's pages take on a server that has grown, on PostgreSQL.

    python benchmarks/console_pages.py [--versions 10000] [--approvals 100000] [--events 1000000]
                                       [--rows 300000] [--rounds 5] [--json FILE]

A PostgreSQL server of its own (its binaries have to be on the machine), `mlflow-agents server` with
login on it, one agent that went through the gate; then the rest is copied in: versions of many
models, approvals, audit events, each as the system writes them, except that the copied audit's
hashes link to nothing; and thirty days of requests into the monitoring table. Every page is asked
for as a reviewer and as the administrator, what can be filtered also filtered, the last page of a
list too. Times are wall-clock milliseconds of the whole request, and CPU milliseconds that server
and PostgreSQL took for it (which other programs on the machine do not touch); the median of the
rounds after one to warm up. Limit: no page over 1,000 ms of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_MS = 1000.0
POSTGRES_PREFIX = "console-pages-postgres-"
TOOLS = ("get_account", "list_cards", "freeze_card", "order_card", "close_account")
PASSWORD = secrets.token_urlsafe(12)
NOW = datetime.now(timezone.utc)


def main() -> int:
    """Measure, print, return 1 if a page is over the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--approvals", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    with tempfile.TemporaryDirectory(prefix="console-pages-") as folder, postgres() as url:
        place = Path(folder)
        with serving(place, url) as (address, process):
            name = first_agent(place, address, url)
            began = time.perf_counter()
            fill(url, name, args.versions, args.approvals, args.events)
            add_traffic(place / "monitoring", args.rows)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
            found = measure(address, process, url, name, args.rounds)
    worst = max(page["cpu_ms"] for page in found)
    if args.json is not None:
        rows = {
            "versions": args.versions,
            "approvals": args.approvals,
            "events": args.events,
            "monitoring_rows": args.rows,
        }
        result = {**rows, "pages": found, "load_average": os.getloadavg()[0]}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(worst > LIMIT_MS)


# --- the servers ---------------------------------------------------------------------------------


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server of our own; gives the URL of a database."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, binaries), os.environ["PATH"]]))
    if found is None:
        raise SystemExit("initdb is not on this machine: install PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix=POSTGRES_PREFIX))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    from helpers.agents_server import free_port

    port, data = free_port(), str(folder / "data")

    def run(*command: str) -> None:
        subprocess.run(
            [str(Path(found).parent / command[0]), *command[1:]],
            check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    try:
        run("initdb", "-D", data, "-U", "agents", "-A", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://agents@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(place: Path, url: str) -> Iterator[tuple[str, Any]]:
    """Run the server on PostgreSQL; gives its address and its process."""
    from helpers.agents_server import AgentsServer

    os.environ.update(
        MLFLOW_AGENTS_KEY_DIR=str(place / "keys"),
        MLFLOW_AGENTS_STORE_URI=url,
        MLFLOW_AGENTS_MONITORING_TABLE=str(place / "monitoring"),
        MLFLOW_AGENTS_SPOOL="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
    )
    options = ("--", "--backend-store-uri", url, "--registry-store-uri", f"agents+{url}")
    with AgentsServer(place / "kept", *options) as server:
        yield server.url, server.process


def first_agent(place: Path, address: str, url: str) -> str:
    """Take one agent through the gate; return its model's name."""
    from mlflow.server.auth.client import AuthServiceClient

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.interaction.templates import write_agent

    del url
    os.environ.update(
        MLFLOW_TRACKING_URI=address,
        MLFLOW_TRACKING_USERNAME="admin",
        MLFLOW_TRACKING_PASSWORD=PASSWORD,
    )
    client = AuthServiceClient(address)
    for person, role in (("ann", "author"), ("rita", "reviewer")):
        made = client.create_role("default", role)
        for kind in ("experiment", "registered_model"):
            client.add_role_permission(made.id, kind, "*", "EDIT")
        client.create_user(person, PASSWORD)
        client.assign_role(person, made.id)
    os.environ["MLFLOW_TRACKING_USERNAME"] = "ann"
    agent, suite = write_agent("desk", place)
    for version in (1, 2):
        (agent / "prompts" / "system.md").write_text(f"You look after orders, edition {version}.\n")
        agents.log_agent(agent, registered_model_name="desk")
        agents.evaluate(f"models:/desk/{version}", [suite], workers=0, progress=False)
    agents.request_promotion("desk", 1, to="Production", comment="first")
    os.environ["MLFLOW_TRACKING_USERNAME"] = "rita"
    agents.approve("desk", 1, to="Production", comment="read")
    os.environ["MLFLOW_TRACKING_USERNAME"] = "ann"
    agents.request_promotion("desk", 2, to="Production", comment="second")
    return "desk"


# --- what is in the stores -----------------------------------------------------------------------


def fill(url: str, name: str, versions: int, approvals: int, events: int) -> None:
    """Copy the rest in."""
    import psycopg

    with psycopg.connect(url) as connection:
        _versions(connection, name, versions)
        _approvals(connection, approvals)
        _events(connection, events)
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")


def add_traffic(folder: Path, rows: int) -> None:
    """Put the last thirty days of requests to a hundred agents into the monitoring table."""
    from benchmarks.monitoring import DAYS, make_rows
    from mlflow_agent_plugin.observability.days import add_rows

    folder.mkdir(parents=True, exist_ok=True)
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    each = rows // DAYS
    for day in range(DAYS):
        made = make_rows(day * each, each, midnight - timedelta(days=DAYS - day))
        varied = (
            {
                **row,
                "agent": f"desk-{number % 100:03d}",
                "agent_digest": f"sha256:{number % 300:064x}",
                "tenant": "default" if number % 4 else f"bank-{number % 20}",
                "denied": int(number % 50 == 0),
                "escalated": number % 40 == 0,
                "outcome": "failed" if number % 70 == 0 else "answered",
            }
            for number, row in enumerate(made)
        )
        add_rows(folder, varied, set())


def _versions(connection: Any, name: str, count: int) -> None:
    """Half of the versions are the first agent's; the rest belong to a hundred other models."""
    from mlflow_agent_plugin.registry import tables
    from mlflow_agent_plugin.registry.seal import Sealer

    sealer = Sealer()
    others = [f"desk-{number:03d}" for number in range(100)]
    wanted = [(name, version) for version in range(3, count // 2 + 1)]
    wanted += [(other, version) for other in others for version in range(1, count // 200 + 1)]

    def rows(table: str, **where: Any) -> list[dict[str, Any]]:
        condition = " AND ".join(f"{key} = %s" for key in where)
        cursor = connection.execute(
            f"SELECT * FROM {table} WHERE {condition}", list(where.values())
        )
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def copy(table: str, found: list[dict[str, Any]]) -> None:
        columns = list(found[0])
        with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as into:
            for row in found:
                into.write_row([row[column] for column in columns])

    def sealed(table: str, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "seal": sealer.seal(table, {k: v for k, v in row.items() if k != "seal"})}

    (model,) = rows("registered_models", name=name)
    copy("registered_models", [{**model, "name": other} for other in others])
    (gate,) = rows(tables.gates.name, name=name)
    copy(
        tables.gates.name,
        [sealed(tables.gates.name, {**gate, "name": other}) for other in others],
    )
    (first,) = rows("model_versions", name=name, version=1)
    plain = {**first, "current_stage": "None"}
    copy("model_versions", [{**plain, "name": m, "version": v} for m, v in wanted])
    (record,) = rows(tables.versions.name, name=name, version=1)
    copy(
        tables.versions.name,
        [
            sealed(
                tables.versions.name,
                {**record, "name": m, "version": v, "agent_digest": f"sha256:{v:064x}"},
            )
            for m, v in wanted
        ],
    )
    (asked,) = rows(tables.requests.name, name=name, version=2)
    copy(
        tables.requests.name,
        [
            sealed(
                tables.requests.name,
                {
                    **asked,
                    "request_id": uuid.uuid4().hex,
                    "name": m,
                    "version": v,
                    "state": "open" if v % 10 == 0 else "executed",
                    "created_at": (NOW - timedelta(minutes=v)).isoformat(),
                },
            )
            for m, v in wanted
        ],
    )


def _approvals(connection: Any, count: int) -> None:
    columns = (
        "approval_id", "action_digest", "tool", "arguments", "agent", "agent_digest",
        "policy_digest", "session_id", "call_id", "tenant", "requested_by", "role", "reason",
        "state", "created_at", "expires_at", "answered_by", "answered_at", "request_id",
    )  # fmt: skip
    into = f"COPY agent_approvals ({', '.join(columns)}) FROM STDIN"
    with connection.cursor().copy(into) as rows:
        for number in range(count):
            waits = number % 20 == 0
            at = NOW - timedelta(minutes=count - number) / 10
            rows.write_row((
                f"apr-{number:08d}", f"sha256:{number:064x}", TOOLS[number % 5],
                json.dumps({"account": f"ACC-{number}", "amount_minor": number}),
                f"desk-{number % 100:03d}", "sha256:" + "1" * 64, "sha256:" + "2" * 64,
                f"session-{number // 5}", f"call-{number}",
                "default" if number % 4 else f"bank-{number % 20}", f"customer-{number % 5000}",
                ("reviewer", "operations")[number % 2], "it cannot be taken back",
                "waiting" if waits else ("executed", "rejected", "approved")[number % 3],
                at, NOW + timedelta(days=1) if waits else at + timedelta(days=1),
                None if waits else "rita", None if waits else at, f"req-{number // 5}",
            ))  # fmt: skip
    connection.execute(
        "INSERT INTO agent_approval_votes (approval_id, voter, yes, verified, reason, voted_at)"
        " SELECT approval_id, 'rita', state <> 'rejected', true, 'read', answered_at"
        " FROM agent_approvals WHERE answered_at IS NOT NULL"
    )


def _events(connection: Any, count: int) -> None:
    columns = (
        "writer", "seq", "ts", "kind", "request_id", "session_id", "tenant", "actor", "agent",
        "agent_digest", "body", "prev_hash", "hash",
    )  # fmt: skip
    kinds = (
        "request_received", "tool_call_decided", "tool_call_decided", "tool_call_finished",
        "request_answered",
    )  # fmt: skip
    into = f"COPY agent_audit_events ({', '.join(columns)}) FROM STDIN"
    writer = uuid.uuid4().hex
    with connection.cursor().copy(into) as rows:
        for number in range(count):
            request, kind = number // 5, kinds[number % 5]
            at = (NOW - timedelta(seconds=count - number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            rows.write_row((
                writer, number + 1, at, kind, f"req-{request}", f"session-{request // 3}",
                "default" if request % 4 else f"bank-{request % 20}",
                f"customer-{request % 5000}", f"desk-{request % 100:03d}", "sha256:" + "1" * 64,
                _body(kind, request), f"sha256:{number:064x}", f"sha256:{number + 1:064x}",
            ))  # fmt: skip


def _body(kind: str, request: int) -> str:
    call = {"call_id": f"call-{request}", "tool": TOOLS[request % 5]}
    decision = {
        "value": "deny" if request % 50 == 0 else "allow",
        "policy_ids": ["hard-limit" if request % 50 == 0 else "permit-own"],
        "reason": "",
    }
    body: dict[str, Any] = {
        "request_received": {"actor": {"user": f"customer-{request % 5000}"}, "chars": 42},
        "tool_call_decided": {
            **call, "decision": decision, "arguments": {"account": f"ACC-{request}"},
            **({"starts": {"effect": "write"}} if decision["value"] == "allow" else {}),
        },
        "tool_call_finished": {**call, "status": "failed" if request % 70 == 0 else "executed"},
        "request_answered": {"outcome": "escalated" if request % 40 == 0 else "acted"},
    }[kind]  # fmt: skip
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


# --- the pages -----------------------------------------------------------------------------------


def pages(name: str, events: int) -> list[str]:
    """Return the address of every page, filtered and far down the lists too."""
    request = events // 10
    return [
        "/", "/?q=desk-09", "/?offset=50",
        f"/models/{name}", f"/models/{name}?offset=4900", f"/models/{name}?digest=00000000",
        f"/models/{name}/versions/2?to=Production", f"/models/{name}/versions/4000",
        "/models/desk-050/versions/7",
        "/requests", "/requests/rows", "/requests?state=executed&offset=8000",
        "/requests?q=desk-042", "/requests?state=rejected",
        "/approvals", "/approvals/rows", "/approvals?offset=3000", "/approvals?tool=freeze_card",
        "/approvals?requested_by=customer-4999", "/approvals?requested_by=nobody",
        "/approvals?show=answered", "/approvals?show=answered&state=rejected&offset=20000",
        "/approvals?show=answered&agent=desk-007", "/approvals/apr-00000020",
        "/safety", "/safety?show=override", "/safety?show=escalation", "/safety?show=failure",
        "/safety?show=stop", "/safety?show=break_glass", "/safety?show=denial&agent=desk-050",
        "/signals", "/signals?days=30", "/signals?days=30&agent=desk-007", "/signals?verdict=true",
        "/safety?days=30",
        "/audit", "/audit?kind=tool_call_decided", "/audit?actor=customer-17",
        "/audit?actor=nobody", "/audit?agent=desk-003&kind=request_answered",
        "/audit?session_id=session-100", f"/audit?before={events // 2}",
        "/audit?since=2020-01-01&until=2020-01-02", f"/audit?until={NOW - timedelta(days=5):%F}",
        "/audit?source=registry", f"/audit/requests/req-{request}",
        f"/audit/requests/req-{request}/export",
    ]  # fmt: skip


def measure(address: str, process: Any, url: str, name: str, rounds: int) -> list[dict[str, Any]]:
    """Ask for every page as two people; print and return what it took."""
    import psycopg
    import requests

    del process
    with psycopg.connect(url) as connection:
        (events,) = connection.execute("SELECT max(position) FROM agent_audit_events").fetchone()
    found = []
    for path in pages(name, events):
        for person in ("admin", "rita"):
            times, spent, status = [], [], 0
            for _ in range(rounds + 1):
                before, began = _cpu_ms(), time.perf_counter()
                answer = requests.get(
                    f"{address}/agents{path}", auth=(person, PASSWORD), timeout=120
                )
                times.append((time.perf_counter() - began) * 1000)
                spent.append(_cpu_ms() - before)
                status = answer.status_code
            wall, cpu = statistics.median(times[1:]), statistics.median(spent[1:])
            row = {"page": path, "as": person, "status": status}
            first = round(times[0], 1)
            found.append({**row, "wall_ms": round(wall, 1), "cpu_ms": cpu, "first_ms": first})
            mark = " OVER" if max(wall, first) > LIMIT_MS else ""
            print(
                f"{first:8.0f} ms first {wall:8.0f} ms wall {cpu:6.0f} ms cpu "
                f"{status} {person:<6}{path}{mark}",
                flush=True,
            )
    return found


def _cpu_ms() -> float:
    """Return the CPU time so far of the processes this one started, PostgreSQL's included."""
    parents, spent, roots = {}, {}, {str(os.getpid())}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        # user and system time, of the process and of children it has waited for
        parents[folder.name], spent[folder.name] = words[1], sum(map(int, words[11:15]))
        if POSTGRES_PREFIX.encode() in command:
            roots.add(folder.name)  # it is nobody's child once it runs
    below = set(roots)
    for _ in range(5):
        below |= {pid for pid, parent in parents.items() if parent in below}
    ticks = sum(spent[pid] for pid in below - {str(os.getpid())})
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
