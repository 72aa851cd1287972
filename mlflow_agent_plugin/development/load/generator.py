"""The load generator's process: Locust's users and clients, driven through a profile.

`main`, started by `driver` in a process patched for gevent, reads one JSON object from standard
input, writes one JSON line a request to the file it names, and one line a second to standard
output. It is a process of its own because Locust patches the standard library.

Rules:
- A request is written down when it has ended, under the phase it was due in.
- Users of a closed phase come and go evenly; one that is told to go ends its request first.
- Arrivals of an open phase form a Poisson process; they do not wait for answers.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from datetime import datetime, timezone
from typing import IO, Any

import gevent
from gevent.lock import BoundedSemaphore
from locust import constant, task
from locust.contrib.fasthttp import FastHttpUser
from locust.env import Environment

from mlflow_agent_plugin.core.resilience.faults import parse_retry_after
from mlflow_agent_plugin.development.load.answers import read_answer
from mlflow_agent_plugin.development.load.retrying import TOO_MANY, wait_before_retry

TICK_SECONDS = 0.2


class _Test:
    """What is going on: the phases, the clock, and where results go."""

    def __init__(self, order: dict[str, Any], out: IO[str]) -> None:
        self.order = order
        self.profile: dict[str, Any] = order["profile"]
        self.phases: list[dict[str, Any]] = order["phases"]
        self.draw = random.Random(self.profile["seed"])  # noqa: S311 - load, not secrets
        self.phase: dict[str, Any] = self.phases[0]
        self.sent = self.ended = self.failed = 0
        self._out = out
        self._began = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def note(self, row: dict[str, Any]) -> None:
        self.ended += 1
        self.failed += row["result"] != "ok"
        self._out.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        self._out.flush()

    def request(self, client: Any, phase: int, due: float) -> None:
        """Send one request, again after rate limits, and note what came of it."""
        number = self.sent
        self.sent += 1
        profile = self.profile
        text = self.draw.choice(profile["messages"])
        deadline = due + profile["timeout_seconds"]
        row = {"stage": phase, "number": number, "due": due, "result": "timeout", "status": None}
        attempts = limited = 0
        try:
            with gevent.Timeout(max(0.001, deadline - self.now())):
                while True:
                    attempts += 1
                    response = client.post(
                        self.order["path"],
                        json={"input": [{"role": "user", "content": text}]},
                        headers=self.order["headers"],
                        name="turn",
                    )
                    status = int(response.status_code or 0) or None
                    limited += status == TOO_MANY
                    wait = wait_before_retry(
                        status,
                        _asked(response) if status == TOO_MANY else None,
                        attempt=attempts,
                        attempts=profile["attempts"],
                        left_seconds=deadline - self.now(),
                        draw=self.draw.random(),
                    )
                    if wait is None:
                        break
                    gevent.sleep(wait)
            row |= read_answer(status, response.text, self.order["agent_digest"])
            # The client turns the time-out into an answer without a status.
            if status is None and self.now() >= deadline:
                row["result"] = "timeout"
        except gevent.Timeout:
            pass
        row |= {"seconds": self.now() - due, "attempts": attempts, "limited": limited}
        self.note(row)


def _asked(response: Any) -> float | None:
    header = (response.headers or {}).get("Retry-After")
    return parse_retry_after(header, now=datetime.now(timezone.utc))


def _user_class(test: _Test) -> type[FastHttpUser]:
    # The request's own limit comes first: a late answer is told from a lost connection.
    seconds = test.profile["timeout_seconds"] + 5

    class LoadUser(FastHttpUser):
        host = test.order["url"]
        network_timeout = seconds
        connection_timeout = seconds
        concurrency = test.profile["max_in_flight"]
        wait_time = constant(test.profile["think_seconds"])

        @task
        def turn(self) -> None:
            test.request(self.client, test.phase["number"], test.now())

    return LoadUser


def run(order: dict[str, Any], out: IO[str], progress: IO[str]) -> None:
    """Drive the profile to its end."""
    test = _Test(order, out)
    user_class = _user_class(test)
    environment = Environment(user_classes=[user_class], stop_timeout=None)
    # Users that are told to go end their request first.
    environment.stop_timeout = test.profile["timeout_seconds"] + 1
    runner = environment.create_local_runner()
    arrivals = user_class(environment)
    in_flight = BoundedSemaphore(test.profile["max_in_flight"])
    flying: list[gevent.Greenlet] = []
    total = sum(phase["seconds"] for phase in test.phases)
    talk = gevent.spawn(_talk, test, total, progress)
    leaving = gevent.spawn(lambda: None)
    started = test.now()
    for phase in test.phases:
        test.phase = phase
        ends = started + phase["seconds"]
        if phase["open_model"]:
            if runner.user_count:
                leaving = gevent.spawn(runner.stop)
            flying += _arrive(test, phase, started, ends, arrivals.client, in_flight)
        else:
            leaving.join()
            _hold(test, phase, started, ends, runner)
        started = ends
    runner.quit()
    gevent.joinall(flying, timeout=test.profile["timeout_seconds"] + 1)
    talk.kill()
    _say(test, total, progress)


def _hold(test: _Test, phase: dict[str, Any], started: float, ends: float, runner: Any) -> None:
    users = -1
    while (now := test.now()) < ends:
        share = (now - started) / phase["seconds"]
        wanted = max(1, round(phase["start"] + (phase["end"] - phase["start"]) * share))
        if wanted != users:
            # At once: the profile says how fast, not Locust's spawn rate.
            runner.start(wanted, spawn_rate=max(wanted, 1), wait=False)
            users = wanted
        gevent.sleep(min(TICK_SECONDS, max(0.0, ends - now)))


def _arrive(
    test: _Test,
    phase: dict[str, Any],
    started: float,
    ends: float,
    client: Any,
    in_flight: BoundedSemaphore,
) -> list[gevent.Greenlet]:
    flying = []

    def send(due: float) -> None:
        with in_flight:
            test.request(client, phase["number"], due)

    due = started
    while True:
        share = (due - started) / phase["seconds"]
        rate = phase["start"] + (phase["end"] - phase["start"]) * share
        # A ramp from nothing would never begin.
        due += test.draw.expovariate(max(rate, phase["end"] / 100))
        if due >= ends:
            break
        gevent.sleep(max(0.0, due - test.now()))
        flying.append(gevent.spawn(send, due))
    gevent.sleep(max(0.0, ends - test.now()))
    return flying


def _talk(test: _Test, total: float, progress: IO[str]) -> None:
    while True:
        _say(test, total, progress)
        test.flush()
        gevent.sleep(1.0)


def _say(test: _Test, total: float, progress: IO[str]) -> None:
    state = {
        "seconds": round(min(test.now(), total), 1),
        "total": total,
        "sent": test.sent,
        "ended": test.ended,
        "failed": test.failed,
        "phase": test.phase["number"],
    }
    progress.write(json.dumps(state) + "\n")
    progress.flush()


def main() -> None:
    """Run the order on standard input."""
    logging.getLogger("locust").setLevel(logging.WARNING)
    order = json.loads(sys.stdin.readline())
    with open(order["out"], "w", encoding="utf-8") as out:  # noqa: PTH123
        run(order, out, sys.stdout)
