"""serve.md against a real `mlflow models serve`, by real commands."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from helpers.agents_server import START_SECONDS, free_port
from helpers.pages import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "how-to" / "serve.md"
FIRST = ROOT / "docs" / "how-to" / "first-agent.md"

pytestmark = pytest.mark.integration


@pytest.fixture
def promoted(desk):
    """Follow first-agent.md up to the promotion; give its reader."""
    for block in blocks(FIRST):
        if block.language == "python":
            break
        desk.follow(block)
    return desk


@pytest.fixture
def served(promoted, tmp_path):
    """Give the address of the server the page starts."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    start = next(block for block in blocks(PAGE) if "models serve" in block.text)
    ((command, _),) = start.commands()
    port = free_port()
    words = [word if word != "5001" else str(port) for word in shlex.split(command)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PATH": path},
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
            assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
        yield f"127.0.0.1:{port}"
    finally:
        # The server is a small tree of processes.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_reader_of_serve_md_gets_what_the_page_promises(served):
    reader = Reader(dict(os.environ), replace={"localhost:5001": served})
    run = [block for block in blocks(PAGE) if block.is_run]
    assert len(run) >= 5
    for block in run:
        reader.follow(block)
