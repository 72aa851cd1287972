"""A Redis server of the tests' own, which can be taken away and brought back."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time

import pytest

START_SECONDS = 30.0


class RedisServer:
    """One server on a free port, with a password, in memory only."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = folder
        self._process = None
        self.uri = f"redis://:hush-hush@127.0.0.1:{self.port}/0"

    def start(self):
        import redis

        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--requirepass", "hush-hush", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                redis.Redis.from_url(self.uri, socket_timeout=1).ping()
            except redis.exceptions.RedisError:
                assert self._process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.02)
            else:
                return

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def need_redis():
    """Skip where no server is installed; continuous integration installs it."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
