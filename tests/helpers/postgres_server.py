"""A PostgreSQL server of the tests' own, which can be taken away and brought back."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


def need_postgres() -> Path:
    """Return the folder of the server's programs; skip where they are not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is None:
        pytest.skip("no PostgreSQL server binaries (initdb) on this machine")
    return Path(found).parent


class PostgresServer:
    """A server with a password on a free port; what is committed survives `stop`.

    PostgreSQL refuses to run as root: then the ``postgres`` user of the package runs it.

    Attributes:
        uri: Its URL without database.
    """

    def __init__(self) -> None:
        self._binaries = need_postgres()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="agents-pg-"))
        password = secrets.token_hex(8)
        (self._folder / "password").write_text(password)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
            shutil.chown(self._folder / "password", self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._data = str(self._folder / "data")
        self._options = f"-p {port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self.uri = f"postgresql://agents:{password}@127.0.0.1:{port}"
        self.password = password
        self._run("initdb", "-D", self._data, "-U", "agents", "-A", "scram-sha-256",
                  f"--pwfile={self._folder / 'password'}", "--no-sync")  # fmt: skip

    def start(self, options: str = "") -> None:
        """Start it and wait until it answers."""
        self._run("pg_ctl", "-D", self._data, "-w", "-l", str(self._folder / "log"),
                  "-o", f"{self._options} {options}", "start")  # fmt: skip

    @property
    def pid(self) -> int:
        """Its main process."""
        return int((Path(self._data) / "postmaster.pid").read_text().splitlines()[0])

    def stop(self, mode: str = "immediate") -> None:
        """Stop it as a crash would: every connection breaks."""
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def close(self) -> None:
        """Stop it if it runs, and remove what it kept."""
        try:
            if (Path(self._data) / "postmaster.pid").exists():
                self.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def create_database(self) -> str:
        """Make an empty database; return its URL."""
        import psycopg

        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(f"{self.uri}/postgres", autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        return f"{self.uri}/{name}"

    def _run(self, *command: str) -> None:
        subprocess.run(
            [str(self._binaries / command[0]), *command[1:]],
            check=True, user=self._user, cwd=self._folder, timeout=120,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip
