"""A fresh store, a clock that is moved by hand, and processes to compete with or to kill."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from mlflow_agent_plugin.store import Store


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(store_uri):
    with Store.open(store_uri) as store:
        yield store


@pytest.fixture
def memory_store():
    with Store.open("sqlite://") as store:
        yield store


@pytest.fixture
def spawn():
    """Start a Python process with a script and arguments; it is killed at the end of the test."""
    started = []

    def start(script, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def race(spawn):
    """Start a script in several processes, let all go at once, return what each printed last."""

    def run(script, *arguments, processes=4):
        running = [spawn(script, *arguments, f"p{number}") for number in range(processes)]
        for process in running:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = []
        for process in running:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            answers.append(out.strip())
        return answers

    return run
