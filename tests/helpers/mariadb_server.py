"""A MariaDB server of the tests' own: MySQL's protocol and dialect, from the distribution."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


class MariaDB:
    """A server on a free port with an empty data folder.

    Attributes:
        url: SQLAlchemy URL of it, without a database.
    """

    def __init__(self) -> None:
        found = [shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in
                 ("mariadbd", "mariadb-install-db", "mariadb-admin")]  # fmt: skip
        if not all(found):
            pytest.skip("no MariaDB server (mariadbd) on this machine")
        self._server, install, self._admin = found
        # MariaDB does not run as root unless it is told which user to be.
        self._user = ["--user=mysql"] if os.geteuid() == 0 else []
        self.folder = Path(tempfile.mkdtemp(prefix="agents-mariadb-"))
        if self._user:
            shutil.chown(self.folder, "mysql")
        subprocess.run(
            [install, "--no-defaults", *self._user, f"--datadir={self.folder}/data",
             "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._socket = f"{self.folder}/socket"
        self._process = subprocess.Popen(
            [self._server, "--no-defaults", *self._user, f"--datadir={self.folder}/data",
             f"--port={port}", "--bind-address=127.0.0.1", f"--socket={self._socket}",
             f"--pid-file={self.folder}/pid", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0",
             "--innodb-buffer-pool-size=64M", "--max-allowed-packet=64M"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while self._query("SELECT 1").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("MariaDB did not start")
            time.sleep(0.2)
        password = secrets.token_hex(8)
        made = self._query(
            f"CREATE USER agents@'127.0.0.1' IDENTIFIED BY '{password}';"
            "GRANT ALL ON *.* TO agents@'127.0.0.1';"
        )
        assert made.returncode == 0, made.stderr
        self.url = f"mysql+pymysql://agents:{password}@127.0.0.1:{port}"

    def _query(self, text: str) -> subprocess.CompletedProcess[str]:
        client = shutil.which("mariadb") or "mysql"
        return subprocess.run(
            [client, "--no-defaults", f"--socket={self._socket}", "-u", "root", "-e", text],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        made = self._query(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        assert made.returncode == 0, made.stderr
        return f"{self.url}/{name}"

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
