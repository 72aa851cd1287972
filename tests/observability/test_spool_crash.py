"""The spool against kill -9 and cut links, with MLflow's own store at the other end."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import sqlite3
import time

import pytest
from helpers.scale import scaled

from mlflow_agent_plugin.observability.spool import (
    LinkAwayError,
    MlflowReceiver,
    SpoolQueue,
    drain_now,
)
from mlflow_agent_plugin.observability.spool.drainer import Drainer

SPANS = 3


class CutLink:
    """A receiver whose link is cut before, within and after a delivery."""

    def __init__(self, inner, pipe, seed):
        self._inner = inner
        self._pipe = pipe
        self._chance = 0.3
        self._random = random.Random(seed)

    def deliver(self, events):
        if self._random.random() < self._chance:
            raise LinkAwayError("cut before")
        some = self._random.randint(1, len(events))
        count = self._inner.deliver(events[:some])
        os.write(self._pipe, b"delivered\n")
        if self._random.random() < self._chance:
            raise LinkAwayError("cut after: it arrived, and nobody here knows")
        return count


@pytest.fixture
def template(monkeypatch):
    """One real trace as a document, to make others from."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    # Opened once, before the forks: no connection may stay open across one.
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    with mlflow.start_span("request") as span:
        for _ in range(SPANS - 1):
            with mlflow.start_span("step"):
                pass
    found = mlflow.get_trace(span.trace_id).to_dict()
    del found["info"]["tags"]["mlflow.artifactLocation"]  # the store's own, added on arrival
    return found


def payload_of(template, number):
    """Return another trace with the template's shape."""
    document = json.dumps(template)
    old = template["info"]["trace_id"]
    new = f"tr-{number:032x}"
    trace = json.loads(document.replace(old, new))
    for span in trace["data"]["spans"]:
        span["trace_id"] = base64.b64encode(number.to_bytes(16, "big")).decode()
    return new, json.dumps({"trace": trace, "workspace": None}).encode()


def child(path, template, receiver, pipe, first, seed):
    """Put traces and send them on, until somebody kills us."""
    queue = SpoolQueue(path)
    drainer = Drainer(queue, lambda: CutLink(receiver, pipe, seed))
    number = first
    while True:
        trace_id, payload = payload_of(template, number)
        queue.put(trace_id, payload, incident=number % 5 == 0)
        os.write(pipe, f"{number}\n".encode())
        drainer.wake()
        number += 1
        time.sleep(0.05)  # traffic


@pytest.mark.integration
def test_every_trace_arrives_exactly_once_through_kills_and_cut_links(
    tmp_path, template, monkeypatch
):
    import mlflow

    from mlflow_agent_plugin.observability.spool import drainer as module

    # The waits of a real link would make 200 rounds take hours.
    for name in ("GATHER_SECONDS", "POLL_SECONDS", "FIRST_WAIT_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)
    path = tmp_path / "spool" / "q.db"
    receiver = MlflowReceiver(mlflow.get_tracking_uri())
    chance = random.Random(20261122)
    acknowledged: set[int] = set()
    started, deliveries = 1, 0
    for round_number in range(scaled(6, 200)):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                child(path, template, receiver, writing, started, round_number)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as said:
            # Some die before anything was sent, most while they send.
            word, wanted = chance.choice([("", 8), ("delivered", 3), ("delivered", 3)])
            wanted = chance.randint(1, wanted)
            lines = []
            while wanted:
                lines.append(said.readline())
                wanted -= lines[-1].startswith(word)
            time.sleep(chance.random() * 0.03)  # a random moment, not a wait for anything
            os.kill(pid, signal.SIGKILL)
            lines += said.readlines()
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        deliveries += lines.count("delivered\n")
        acknowledged |= {int(line) for line in lines if line[:1].isdigit() and line[-1] == "\n"}
        started = max(acknowledged) + 2  # the last one may have been put and not said
    queue = SpoolQueue(path)
    drain_now(queue, receiver, wait_seconds=30)
    assert queue.is_empty()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        traces = dict(database.execute("SELECT request_id, 1 FROM trace_info"))
        spans = dict(database.execute("SELECT trace_id, count(*) FROM spans GROUP BY trace_id"))
    arrived = {int(name[3:], 16) for name in traces} - {int(template["info"]["trace_id"][3:], 16)}
    assert acknowledged <= arrived
    # Put and killed before it could say so: at most one a round.
    assert len(arrived - acknowledged) <= scaled(6, 200)
    assert {spans[f"tr-{number:032x}"] for number in arrived} == {SPANS}
    assert deliveries > scaled(6, 200) / 3
    print(f"{len(acknowledged)} acknowledged, {len(arrived)} arrived, {deliveries} deliveries cut")
