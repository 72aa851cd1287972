"""A fresh store, and a way to run code in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlflow_agent_plugin.store import Store


@pytest.fixture
def store(store_uri):
    with Store.open(store_uri) as store:
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
