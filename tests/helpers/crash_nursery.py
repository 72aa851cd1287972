"""Lets agents die in the middle of a conversation, many times, and says what is left.

Two kinds of lives: a process that runs the agent (``trials``), and one that serves its saved model
over HTTP with MLflow's own scoring server, seen from a client (``served``).

Run as a process of its own (`run_nursery`): it imports everything once and then forks a child for
each life, so that a life costs a conversation and not ten seconds of imports. It opens no database
itself; a connection that is open across a fork is no use to either side.

A conversation reads, then writes (idempotent) and burns (irreversible, needs an approval) in
parallel, then says something. A life is killed with SIGKILL at a random step it takes in the store,
the checkpointer or a tool (by itself, so exactly there) or after a random time (by its parent, so
anywhere). The next life goes on with the same session as a client would, until one is let live.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

SESSION_AFTER = timedelta(minutes=2)
"""How far the clock of each life is ahead of the one before: the dead one's lease has run out."""

MAX_DEATHS = 3

SERVED_MODULES = (
    "alembic.command",
    "git",
    "jinja2.sandbox",
    "jsonschema",
    "jsonschema_rs",
    "limits.storage",
    "mlflow.pyfunc.scoring_server",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing.export.mlflow_v3",
    "mlflow.tracing.otel.translation.vercel_ai",
    "mlflow.tracing.processor.mlflow_v3",
    "mlflow_agent_plugin.core.flavor",
    "mlflow_agent_plugin.core.promoted",
    "mlflow_agent_plugin.core.served",
    "mlflow_agent_plugin.foundation.metering",
    "mlflow_agent_plugin.observability.spool",
    "mlflow_agent_plugin.package.model_folder",
    "mlflow_agent_plugin.trust.policy.check",
    "uvicorn.protocols.http.httptools_impl",
)


def run_nursery(what, root, uri, folder, **options):
    """Run `what` ("trials", "served" or "resumes") in a fresh process; return its answer."""
    job = {"what": what, "root": str(root), "uri": uri, "folder": str(folder), **options}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(job)],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(done.stderr[-8000:])
    return json.loads(done.stdout.splitlines()[-1])


class Life:
    """One process that takes a conversation further. All of it runs in the forked child."""

    def __init__(self, job, session, number, *, die_at=None, started=None):
        self.job = job
        self.session = session
        self.number = number
        self.die_at = die_at
        self.started = started
        self.steps = 0
        self.lock = threading.Lock()
        folder = Path(job["folder"])
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.acknowledged = os.open(folder / "acknowledged.txt", flags, 0o600)
        self.effects = os.open(folder / "effects.txt", flags, 0o600)
        self.keys = folder / "keys-done"
        self.keys.mkdir(exist_ok=True)

    def step(self):
        """Die here if it is time."""
        with self.lock:
            self.steps += 1
            if self.steps == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def clock(self):
        from mlflow_agent_plugin.entities import utc_now

        return utc_now() + self.number * SESSION_AFTER

    def tool(self, name, function):
        """Return a tool that acts on the world this trial looks at afterwards."""
        del function

        def look(context, *, item, amount=0):
            self.step()
            return {"ok": True, "item": item}

        def put(context, *, item, amount=0):
            self.step()
            # A system of record that knows the key: the second time changes nothing.
            key = context.idempotency_key.replace(":", " ")
            with suppress(FileExistsError):
                os.close(os.open(self.keys / key, os.O_CREAT | os.O_EXCL))
            self.step()
            return {"ok": True, "item": item}

        def burn(context, *, item, amount=0):
            self.step()
            os.write(self.effects, f"burn {context.session_id}\n".encode())
            self.step()
            return {"ok": True, "item": item}

        return {"look": look, "put": put, "burn": burn}.get(name, look)

    def watch(self):
        """Make the store and the checkpointer count as steps, and write down what they promised."""
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.trust import AuditLog

        begin, transaction = Store.begin, AuditLog.transaction
        life = self

        @contextmanager
        def stepping_begin(store, connection=None):
            if connection is not None:
                with begin(store, connection) as joined:
                    yield joined
                return
            life.step()
            with begin(store) as opened:
                yield opened
                life.step()
            life.step()

        @contextmanager
        def keeping_transaction(log):
            with transaction(log) as opened:
                written = []
                append = opened.append
                opened.append = lambda *a, **k: written.append(append(*a, **k)) or written[-1]
                yield opened
            os.write(life.acknowledged, "".join(f"event {e}\n" for e in written).encode())

        Store.begin, AuditLog.transaction = stepping_begin, keeping_transaction

    def watch_checkpointer(self, saver):
        for name in ("put", "put_writes"):
            real = getattr(saver, name)

            def stepping(*arguments, _real=real, **more):
                self.step()
                answer = _real(*arguments, **more)
                self.step()
                return answer

            setattr(saver, name, stepping)
        return saver

    def options(self):
        """Return what an agent of this life is opened with."""
        from mlflow_agent_plugin.core.checkpoints import open_checkpointer
        from mlflow_agent_plugin.store import Store

        store = Store.open(self.job["uri"])
        saver = open_checkpointer(store)
        self.watch()
        return {
            "store": store,
            "checkpointer": self.watch_checkpointer(saver),
            "clock": self.clock,
            "tool_wrapper": self.tool,
        }

    def open(self):
        from mlflow_agent_plugin.core import AgentRuntime
        from mlflow_agent_plugin.package import load_bundle

        bundle = load_bundle(self.job["root"])
        return AgentRuntime.open(bundle, tracing=False, **self.options())

    def serve(self, listening):
        """Serve the saved model as ``mlflow models serve`` does; ends by a signal only."""
        import mlflow
        import uvicorn
        from mlflow.pyfunc import scoring_server

        from mlflow_agent_plugin.core import AgentRuntime

        real = AgentRuntime.open
        AgentRuntime.open = lambda bundle, **more: real(bundle, **more, **self.options())
        app = scoring_server.init(mlflow.pyfunc.load_model(self.job["model"]))
        with self.lock:
            self.steps = 0
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])

    def live(self):
        """Go on with the conversation to its end; return how it stands."""
        from mlflow_agent_plugin.entities import Actor, AgentRequest, Outcome
        from mlflow_agent_plugin.errors import RequestError, SessionNotFoundError

        ann = Actor(user="ann")
        warden = Actor(user="walt", roles=frozenset({"warden"}))
        runtime = self.open()
        if self.started is not None:
            os.write(self.started, b"x")
        with self.lock:
            self.steps = 0
        statuses = {}
        for _ in range(6):
            for waiting in runtime.waiting(self.session):
                runtime.approvals.approve(waiting.approval_id, warden)
                os.write(self.acknowledged, f"approved {waiting.approval_id}\n".encode())
            try:
                reply = runtime.invoke(AgentRequest("", self.session, ann, resume=True))
            except (RequestError, SessionNotFoundError):
                state = runtime.graph.get_state({"configurable": {"thread_id": self.session}})
                if state.values.get("messages"):
                    break
                reply = runtime.invoke(AgentRequest("go", self.session, ann))
            statuses.update({call.tool: call.status.value for call in reply.calls})
            if reply.outcome is not Outcome.WAITING_APPROVAL:
                break
        end = self.stands(runtime)
        runtime.close()
        return {"steps": self.steps, "statuses": statuses, **end}

    def stands(self, runtime):
        """Return how the conversation stands."""
        state = runtime.graph.get_state({"configurable": {"thread_id": self.session}})
        claim = runtime._gateway._trust.ledger.get(f"{self.session}:c3")
        messages = state.values.get("messages", [])
        return {
            "told": [m.content for m in messages if m.type == "tool"],
            "begun": bool(messages),
            "open": [task.name for task in state.tasks],
            "burn_claim": None if claim is None else claim.status.value,
        }

    def look_at(self):
        """Open the agent to see how the conversation stands."""
        runtime = self.open()
        end = self.stands(runtime)
        runtime.close()
        return end

    def approve(self):
        """Say yes to whatever waits, as a reviewer with a process of his own does."""
        from mlflow_agent_plugin.entities import Actor
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.trust import ApprovalQueue, AuditLog

        warden = Actor(user="walt", roles=frozenset({"warden"}))
        with Store.open(self.job["uri"]) as store, AuditLog(store, clock=self.clock) as audit:
            queue = ApprovalQueue(store, audit=audit, clock=self.clock)
            for waiting in queue.list(session_id=self.session, state="waiting"):
                queue.approve(waiting.approval_id, warden)
                os.write(self.acknowledged, f"approved {waiting.approval_id}\n".encode())


def in_child(action):
    """Fork; the child answers through a pipe. Return (pid, pipe)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            answer = json.dumps(action())
        except BaseException:
            import traceback

            answer = json.dumps({"error": traceback.format_exc()})
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    return pid, reading


def await_child(pid, reading):
    """Return the child's answer, None if it was killed."""
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return None
    answer = json.loads(text)
    if isinstance(answer, dict) and "error" in answer:
        raise AssertionError(answer["error"])
    return answer


def one_life(job, session, number, rng, *, length, spared):
    """Live once; return the answer, or None after a death."""
    if spared:
        return await_child(*in_child(lambda: Life(job, session, number).live()))
    if rng.random() < 0.6:
        die_at = rng.randint(1, length["steps"])
        return await_child(*in_child(lambda: Life(job, session, number, die_at=die_at).live()))
    started_reading, started_writing = os.pipe()
    pid, reading = in_child(lambda: Life(job, session, number, started=started_writing).live())
    os.close(started_writing)
    os.read(started_reading, 1)
    os.close(started_reading)
    time.sleep(rng.uniform(0, length["seconds"]))  # the moment of death, not a wait for anything
    os.kill(pid, signal.SIGKILL)
    return await_child(pid, reading)


class Server:
    """A process that serves the agent, and a client's view of it."""

    def __init__(self, job, number, *, die_at=None):
        self.job = job
        self.number = number
        listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = listening.getsockname()[1]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                Life(job, "", number, die_at=die_at).serve(listening)
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(3)
        # Only the server holds the socket: with it dies whatever a client waits for.
        listening.close()

    def ask(self, path, payload=None):
        """Return (status, answer); `ConnectionError` or `HTTPException` if it dies meanwhile."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = None if payload is None else json.dumps(payload)
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if body is not None else text

    def say(self, session, *, resume):
        item = {"role": "user", "content": "go"}
        if resume:
            item = {"type": "mcp_approval_response", "approval_request_id": "-", "approve": True}
        return self.ask("/invocations", {"input": [item], "context": {"conversation_id": session}})

    def converse(self, session):
        """Take a conversation to its end, as a client and a reviewer do."""
        life = Life(self.job, session, self.number)
        for _ in range(6):
            await_child(*in_child(life.approve))
            status, reply = self.say(session, resume=True)
            if status in (400, 404):
                if await_child(*in_child(life.look_at))["begun"]:
                    return  # it came to its end before its server died
                status, reply = self.say(session, resume=False)
            assert status == 200, (status, reply)
            if reply["custom_outputs"]["outcome"] != "waiting_approval":
                return
        raise AssertionError(f"{session} never ends: {reply}")

    def kill(self):
        """Kill it, if it has not killed itself; it must not have ended in any other way."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), f"the server ended with {status}"


def kill_after(pid, seconds):
    """Let another process kill `pid` in a while."""
    killer = os.fork()
    if killer == 0:
        time.sleep(seconds)  # the moment of death, not a wait for anything
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    return killer


def served_life(job, session, number, rng, *, length, spared):
    """Serve, and converse with it; return how the conversation stands, None after a death."""
    by_itself = not spared and rng.random() < 0.5
    server = Server(job, number, die_at=rng.randint(1, length["steps"]) if by_itself else None)
    killer = None
    try:
        if spared or by_itself or rng.random() < 0.9:
            assert server.ask("/ping")[0] == 200  # else it may die while it starts
        if not spared and not by_itself:
            killer = kill_after(server.pid, rng.uniform(0, length["seconds"]))
        server.converse(session)
    except (ConnectionError, http.client.HTTPException):
        assert not spared, "a server that nobody killed hung up"
        return None
    finally:
        server.kill()
        if killer is not None:
            os.kill(killer, signal.SIGKILL)
            os.waitpid(killer, 0)
    return await_child(*in_child(Life(job, session, number).look_at))


def import_what_servers_need():
    """Import once what every server imports in its life: most of its CPU time otherwise."""
    from mlflow.utils import requirements_utils

    for name in SERVED_MODULES:
        importlib.import_module(name)
    # Lists all that is installed, once per process.
    requirements_utils._init_packages_to_modules_map()


def served(job):
    """As `trials`, but what dies is a serving process; its steps are about those of `trials`."""
    os.environ["MLFLOW_AGENTS_ACTOR"] = "ann"
    calm = one_life(job, "calm", 0, random.Random(1), length=None, spared=True)
    begin = time.perf_counter()
    served_life(job, "calm2", 0, random.Random(1), length=None, spared=True)
    length = {"steps": calm["steps"], "seconds": 0.8 * (time.perf_counter() - begin)}
    return let_die(job, served_life, length, {"calm": calm})


def trials(job):
    """Let `job["deaths"]` lives die; return what every conversation came to."""
    begin = time.perf_counter()
    calm = one_life(job, "calm", 0, random.Random(1), length=None, spared=True)
    length = {"steps": calm["steps"], "seconds": 0.6 * (time.perf_counter() - begin)}
    return let_die(job, one_life, length, {"calm": calm})


def let_die(job, live, length, ends):
    """Let lives die until there were enough; return what every conversation came to."""
    rng = random.Random(job.get("seed", 7))
    deaths = 0
    while deaths < job["deaths"]:
        session = f"s{len(ends)}"
        for number in range(MAX_DEATHS + 1):
            spared = number == MAX_DEATHS or (number and rng.random() < 0.5)
            end = live(job, session, number, rng, length=length, spared=spared)
            if end is not None:
                ends[session] = end
                break
            deaths += 1
    checked = await_child(*in_child(lambda: look_back(job)))
    return {"deaths": deaths, "ends": ends, "length": length, **checked}


def look_back(job):
    """Read everything the dead left, with connections of its own."""
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue, AuditLog, EffectLedger, verify_audit

    folder = Path(job["folder"])
    with Store.open(job["uri"]) as store:
        audit = AuditLog(store)
        events = audit.events()
        kept = {event.event_id for event in events}
        promised = (folder / "acknowledged.txt").read_text().split("\n")
        approvals = {item.approval_id: item.state.value for item in ApprovalQueue(store).list()}
        verification = verify_audit(store)
        return {
            "verified": verification.ok,
            "events": len(events),
            "lost_events": [
                line for line in promised if line.startswith("event ") and line[6:] not in kept
            ],
            "promised_events": sum(line.startswith("event ") for line in promised),
            "lost_approvals": [
                line
                for line in promised
                if line.startswith("approved ")
                and approvals.get(line[9:]) not in ("approved", "executed")
            ],
            "approvals": dict(Counter(approvals.values())),
            "effects": dict(
                Counter((folder / "effects.txt").read_text().splitlines())
                + Counter(f"put {key.name.split()[0]}" for key in (folder / "keys-done").iterdir())
            ),
            "burns_started": dict(
                Counter(
                    event.session_id
                    for event in events
                    if event.starts_tool and event.body.get("tool") == "burn"
                )
            ),
            "in_doubt": [claim.key for claim in EffectLedger(store).in_doubt()],
        }


def resumes(job):
    """Resume one approved call from four processes, many threads each, all at once."""
    from mlflow_agent_plugin.entities import Actor, AgentRequest
    from mlflow_agent_plugin.errors import AgentError

    ann = Actor(user="ann")
    warden = Actor(user="walt", roles=frozenset({"warden"}))

    def ask():
        runtime = Life(job, "shared", 0).open()
        reply = runtime.invoke(AgentRequest("go", "shared", ann))
        runtime.approvals.approve(reply.approvals[0].approval_id, warden)
        runtime.close()
        return reply.outcome.value

    assert await_child(*in_child(ask)) == "waiting_approval"
    ready_reading, ready_writing = os.pipe()
    go_reading, go_writing = os.pipe()

    def race():
        os.close(go_writing)
        runtime = Life(job, "shared", 0).open()
        answers = []

        def resume():
            try:
                reply = runtime.invoke(AgentRequest("", "shared", ann, resume=True))
                answers.append(reply.outcome.value)
            except AgentError as error:
                answers.append(type(error).__name__)

        threads = [threading.Thread(target=resume) for _ in range(job["threads"])]
        os.write(ready_writing, b"x")
        os.read(go_reading, 1)  # ends when the parent closes its side: all at once
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    children = [in_child(race) for _ in range(job["processes"])]
    for _ in children:
        os.read(ready_reading, 1)
    os.close(go_reading)
    os.close(go_writing)
    answers = [answer for child in children for answer in await_child(*child)]
    return {"answers": dict(Counter(answers)), **await_child(*in_child(lambda: look_back(job)))}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    import langgraph.checkpoint.postgres
    import langgraph.checkpoint.sqlite
    import langgraph.prebuilt  # noqa: F401

    import mlflow_agent_plugin.core.runtime.runtime
    import mlflow_agent_plugin.foundation.scripted
    import mlflow_agent_plugin.trust.policy  # noqa: F401

    if given["what"] == "served":
        import_what_servers_need()
    kinds = {"trials": trials, "served": served, "resumes": resumes}
    print(json.dumps(kinds[given["what"]](given)))
