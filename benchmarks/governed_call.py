"""What governing one tool call costs, beside a raw call, a bare ToolNode and agent-os-kernel.

    python benchmarks/governed_call.py [--folder DIR] [--store URI] [--rounds 2000] [--json FILE]

All take turns in one process, call by call, so that a busy machine slows all alike. Ours is the
whole path: contract both ways, provenance over the session, Cedar, ledger, hash-chained audit,
durable before the tool runs and after it. ``agent-os-kernel`` (Microsoft's agent governance
toolkit; extra ``peers``) is its ``MCPGateway``: tool list, argument patterns, response scan, and
its audit in memory as it comes, or each event appended to a file and synced, as "durable" means.
It has no ledger, no contracts and no provenance. Wall-clock times are per call; CPU times count
all threads of the process; ratios are what to compare between machines. "bare commit" is the
smallest durable transaction on the same disk: ours waits for two per call. A folder in memory
(``--folder /dev/shm``) shows the rest.

The throughput part starts writers, each a process with its own threads and session, on one store.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow_agent_plugin.core.gateway import Governance, ToolGateway
from mlflow_agent_plugin.core.messages import tool_message, user_message
from mlflow_agent_plugin.core.tracing import Tracer
from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
from mlflow_agent_plugin.entities import Actor, CallStatus, ToolCallRecord, utc_now
from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import ApprovalQueue, AuditLog, EffectLedger
from mlflow_agent_plugin.trust.policy import CedarPolicyEngine, PolicySources

CALLS_OF_A_TURN = 8
TOOLS = {"get_order": "read", "cancel_order": "write"}
ORDER = {"order_id": "A-1042", "state": "cancelled", "lines": [{"sku": "lamp", "count": 2}] * 3}
OVER = {
    "added to a raw call": ("governed write", "raw call"),
    "added to a ToolNode's call": ("ToolNode, governed write", "ToolNode"),
}
"""What governing adds, round by round: to the bare function, and to the same call of a graph."""
ANN = Actor(user="ann", tenant="shop", roles=frozenset({"customer"}), verified=True)


def act(order_id: str, reason: str = "") -> dict[str, Any]:
    """Stand for a tool that costs nothing itself."""
    del reason
    return {**ORDER, "order_id": order_id}


def contracts() -> dict[str, ToolContract]:
    """One read and one idempotent write with typed inputs and outputs."""
    text = {"type": "string"}
    line = {"type": "object", "properties": {"sku": text, "count": {"type": "integer"}}}
    return {
        name: ToolContract.model_validate(
            {
                "apiVersion": "mlflow-agents/v1",
                "name": name,
                "version": "1.0.0",
                "description": "Works on an order",
                "effect": effect,
                "idempotent": effect == "write",
                "input": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["order_id"],
                    "properties": {"order_id": {**text, "maxLength": 20}, "reason": text},
                },
                "output": {
                    "type": "object",
                    "required": ["order_id", "state"],
                    "properties": {
                        "order_id": text,
                        "state": {"enum": ["open", "cancelled"]},
                        "lines": {"type": "array", "items": line},
                    },
                },
            }
        )
        for name, effect in TOOLS.items()
    }


def engine(found: Mapping[str, ToolContract]) -> CedarPolicyEngine:
    """A permit, a hard forbid and an approval rule for each tool."""
    permit, hard, approval = [], [], []
    for name in found:
        scope = f'action == Agent::Action::"{name}", resource'
        permit.append(f'@id("p-{name}") permit (principal in Agent::Role::"customer", {scope});')
        hard.append(
            f'@id("h-{name}") forbid (principal, {scope})'
            ' when { context.provenance.order_id == "untrusted" };'
        )
        approval.append(
            f'@id("a-{name}") @approval("clerk") forbid (principal, {scope})'
            ' when { context.input.order_id like "VIP-*" } unless { context.session.approved };'
        )
    return CedarPolicyEngine(
        PolicySources(
            agent="bench",
            contracts=found,
            usable_tools=tuple(found),
            files={
                "permit.cedar": "\n".join(permit),
                "hard.cedar": "\n".join(hard),
                "approval.cedar": "\n".join(approval),
            },
            roles={"customer": "", "clerk": ""},
        )
    )


class Ours:
    """A gateway over a store, with a turn and a session that has said something."""

    def __init__(self, store: Store, session: str) -> None:
        found = contracts()
        audit = AuditLog(store)
        self.governance = Governance(
            policies=engine(found),
            approvals=ApprovalQueue(store, audit=audit),
            ledger=EffectLedger(store),
            audit=audit,
        )
        self.gateway = ToolGateway(
            agent="bench",
            agent_digest="sha256:" + "0" * 64,
            contracts=found,
            functions=dict.fromkeys(found, lambda _context, **arguments: act(**arguments)),
            governance=self.governance,
            resources=None,
            knowledge=None,
            environment="bench",
            max_calls=10**9,
            approval_ttl_seconds=600,
            extend_lease=lambda *_: None,
            clock=utc_now,
            tracer=Tracer(enabled=False),
        )
        self.session = session
        self.messages = conversation()

    def begin(self) -> None:
        """Begin a turn in this thread."""
        CURRENT_TURN.set(
            Turn(
                request_id=uuid.uuid4().hex,
                session_id=self.session,
                actor=ANN,
                owner="bench",
                number=1,
                event_time=utc_now(),
            )
        )

    def call(self, tool: str, call_id: str) -> None:
        """Govern one call; a turn has eight."""
        turn = CURRENT_TURN.get()
        if turn is None or turn.started >= CALLS_OF_A_TURN:
            self.begin()
        call = {"name": tool, "args": {"order_id": "A-1042", "reason": "late"}, "id": call_id}
        request = SimpleNamespace(tool_call=call, state={"messages": self.messages})
        answer = self.gateway.govern(request)  # type: ignore[arg-type]
        assert answer.status == "success", answer.content


def conversation() -> list[Any]:
    """What a session of three turns has seen: some 3 kB."""
    messages: list[Any] = []
    for turn in range(3):
        messages.append(
            user_message(f"please cancel order A-1042, it is late ({turn})", message_id="")
        )
        record = ToolCallRecord(
            call_id=f"old-{turn}",
            tool="get_order",
            arguments={"order_id": "A-1042"},
            status=CallStatus.EXECUTED,
            output={**ORDER, "note": "left at the door, as agreed " * 30},
        )
        messages.append(tool_message(record, origins={"order_id": "user"}))
    return messages


def tool_node(ours: Ours | None) -> Callable[[str, str], None]:
    """Return calls through a graph of one ToolNode: bare, or with ours around the tool."""
    from langchain_core.messages import AIMessage
    from langchain_core.tools import StructuredTool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    tools = [StructuredTool.from_function(act, name=name, description=name) for name in TOOLS]
    if ours is None:
        node = ToolNode(tools)
    else:
        gateway = ours.gateway
        node = ToolNode(tools, wrap_tool_call=lambda request, _: gateway.govern(request))
    graph = StateGraph(MessagesState)
    graph.add_node("tools", node)
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    compiled = graph.compile()
    seen = conversation()

    def call(tool: str, call_id: str) -> None:
        wanted = {"name": tool, "args": {"order_id": "A-1042", "reason": "late"}, "id": call_id}
        state = {"messages": [*seen, AIMessage(content="", tool_calls=[wanted])]}
        answer = compiled.invoke(state)["messages"][-1]
        assert answer.status == "success", answer.content

    return call


def kernel(file: Path | None) -> Callable[[str, str], None] | None:
    """Return calls through agent-os-kernel's gateway, None if it is not installed."""
    try:
        from agent_os.integrations.base import GovernancePolicy
        from agent_os.mcp_gateway import MCPGateway
    except ImportError:
        return None
    logging.getLogger("agent_os").setLevel(logging.ERROR)

    class SyncedFile:
        """Appends each event to a file and waits for the disk."""

        def __init__(self, path: Path) -> None:
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

        def record(self, entry: dict[str, Any]) -> None:
            os.write(self.file, json.dumps(entry).encode() + b"\n")
            os.fdatasync(self.file)

    gateway = MCPGateway(
        GovernancePolicy(name="bench", allowed_tools=list(TOOLS), max_tool_calls=10**9),
        audit_sink=None if file is None else SyncedFile(file),
    )

    def call(tool: str, call_id: str) -> None:
        del call_id
        arguments = {"order_id": "A-1042", "reason": "late"}
        allowed, reason = gateway.intercept_tool_call("bench", tool, arguments)
        assert allowed, reason
        decision = gateway.intercept_tool_response("bench", tool, act(**arguments))
        assert decision.allowed, decision.reason

    return call


def compare(ways: Mapping[str, Callable[[int], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Take turns between `ways`; return milliseconds per call, and what each of `OVER` adds."""
    for number in range(30):
        for way in ways.values():
            way(-1 - number)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, float] = dict.fromkeys(ways, 0.0)
    for number in range(rounds):
        for name, way in ways.items():
            busy, start = time.process_time(), time.perf_counter()
            way(number)
            wall[name].append((time.perf_counter() - start) * 1000)
            cpu[name] += (time.process_time() - busy) * 1000
    for name, (one, other) in OVER.items():
        wall[name] = [a - b for a, b in zip(wall[one], wall[other], strict=True)]
        cpu[name] = cpu[one] - cpu[other]
    found = {}
    for name, taken in wall.items():
        taken.sort()
        found[name] = {
            "p50_ms": round(taken[rounds // 2], 4),
            "p99_ms": round(taken[int(rounds * 0.99)], 4),
            "cpu_ms": round(cpu[name] / rounds, 4),
        }
    return found


def bare_commit(store: Store) -> Callable[[int], None]:
    """Return the smallest durable transaction on the store's own connection."""
    raw = store.engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("CREATE TABLE bare_commit (n INTEGER)")
    raw.commit()

    def commit(number: int) -> None:
        if store.dialect == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        cursor.execute(f"INSERT INTO bare_commit VALUES ({number})")
        raw.commit()

    return commit


def latency(uri: str, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every way of calling a tool."""
    with Store.open(uri) as store:
        ours = Ours(store, "latency")
        ours.begin()
        bare, governed = tool_node(None), tool_node(ours)
        ways: dict[str, Callable[[int], None]] = {
            "raw call": lambda _: act("A-1042", "late") and None,
            "governed read": lambda n: ours.call("get_order", f"r{n}"),
            "governed write": lambda n: ours.call("cancel_order", f"w{n}"),
            "ToolNode": lambda n: bare("cancel_order", f"b{n}"),
            "ToolNode, governed write": lambda n: governed("cancel_order", f"g{n}"),
            "bare commit": bare_commit(store),
        }
        for name, file in (("memory", None), ("synced file", folder / "kernel.jsonl")):
            peer = kernel(file)
            if peer is not None:
                ways[f"agent-os-kernel, {name}"] = lambda _, peer=peer: peer("cancel_order", "")
        found = compare(ways, rounds)
        ours.governance.audit.close()
    return found


def ratios(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return ours over each of the others; for the ToolNode, in the same graph."""
    write, node = found["governed write"], found["ToolNode, governed write"]
    pairs = {
        "governed ToolNode over ToolNode": (node, found["ToolNode"]),
        **{
            f"governed write over {name}": (write, other)
            for name, other in found.items()
            if name.startswith("agent-os-kernel") or name == "bare commit"
        },
    }
    answers = {}
    for name, (one, other) in pairs.items():
        for kind in ("p50_ms", "cpu_ms"):
            answers[f"{name}, {kind[:3]}"] = round(one[kind] / other[kind], 2)
    return answers


def throughput(uri: str, writers: int, threads: int, rounds: int) -> dict[str, float]:
    """Return governed writes a second of several processes together."""
    command = [sys.executable, __file__, "--store", uri, "--rounds", str(rounds)]
    processes = [
        subprocess.Popen(
            [*command, "--writer", f"{uuid.uuid4().hex}", "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(writers)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    start = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    seconds = time.perf_counter() - start
    if any(process.wait() for process in processes):
        raise SystemExit("a writer failed")
    calls = writers * threads * (rounds // threads)
    return {
        "writers": writers,
        "threads": threads,
        "calls_per_second": round(calls / seconds, 1),
    }


def be_a_writer(uri: str, rounds: int, name: str, threads: int) -> None:
    """Make governed writes when told to."""
    with Store.open(uri) as store:
        ours = Ours(store, name)
        ours.begin()
        for number in range(20):
            ours.call("cancel_order", f"warm{number}")

        def work(thread: int) -> None:
            ours.begin()
            for number in range(rounds // threads):
                ours.call("cancel_order", f"{thread}-{number}")

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        print("ready", flush=True)
        sys.stdin.readline()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print("done", flush=True)
        ours.governance.audit.close()


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the sqlite file goes")
    parser.add_argument("--store", help="database URL; must be empty")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--loads", default="1x1,1x8", help="writers x threads, by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ.setdefault("MLFLOW_AGENTS_KEY_DIR", f"{folder}/keys")
        uri = options.store or f"sqlite:///{folder}/agents.db"
        if options.writer is not None:
            be_a_writer(uri, options.rounds, options.writer, options.threads)
            return
        load = os.getloadavg()[0]
        found = latency(uri, folder, options.rounds)
        rates = [
            throughput(uri, *(int(part) for part in wanted.split("x")), options.rounds)
            for wanted in options.loads.split(",")
        ]
    document = {
        "store": "postgresql" if options.store else "sqlite",
        "folder": str(options.folder or tempfile.gettempdir()) if not options.store else None,
        "rounds": options.rounds,
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "milliseconds": found,
        "ratios": ratios(found),
        "throughput": rates,
    }
    print(f"load average {document['load_average']}, {os.cpu_count()} CPUs, {document['store']}")
    print(f"{'':32}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>10}")
    for name, row in found.items():
        print(f"{name:32}{row['p50_ms']:10.3f}{row['p99_ms']:10.3f}{row['cpu_ms']:10.3f}")
    for name, ratio in document["ratios"].items():
        print(f"{name:60}{ratio:8.2f}x")
    for rate in rates:
        print(
            "{writers} writers x {threads} threads: {calls_per_second:.0f} calls/s".format(**rate)
        )
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
