"""Commands that run MLflow's server with the gated registry and the review console: server, user.

Rules:
- Everything the server keeps lies in one folder: databases, artifacts, users, session secret.
- There is no default password. The first start takes the administrator's from
  ``MLFLOW_AUTH_ADMIN_PASSWORD``, or makes one and shows it once.
- With ``--no-login`` nobody is asked who he is; listening beyond this machine then warns.
- Trying a version runs its code on this machine, as this user: unless asked for, only where nobody
  else can connect.
- The runtime store the console shows is the one agents are served on: the settings' own where they
  name one, else a database in the folder.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.errors import ConfigError, IdentityError
from mlflow_agent_plugin.interaction.cli.answer import Answer, print_answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import PATH
from mlflow_agent_plugin.interaction.web import LOGIN_VARIABLE, TRIALS_VARIABLE

ADMIN = "admin"
_PASSWORD_BYTES = 18

_AUTH_INI = """\
# Written by `mlflow-agents server`; see MLflow's documentation of basic authentication.
# Everybody who may log in may look; changing needs a role (`mlflow-agents user add --role`).
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True)
class _Place:
    """The server's folder, absolute."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def runtime_store(self) -> str:
        return f"sqlite:///{self.folder / 'agents.db'}"

    @property
    def monitoring(self) -> Path:
        return self.folder / "monitoring"

    @property
    def users(self) -> Path:
        return self.folder / "users.db"

    @property
    def auth_ini(self) -> Path:
        return self.folder / "auth.ini"

    @property
    def secret(self) -> Path:
        return self.folder / "session-secret"


@click.command()
@click.option(
    "--dir",
    "folder",
    type=PATH,
    default=Path("mlflow-server"),
    show_default=True,
    help="Everything it keeps.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=5000,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Server processes.",
)
@click.option(
    "--login/--no-login",
    default=True,
    show_default=True,
    help="Ask for user and password (extra: server).",
)
@click.option(
    "--trials/--no-trials",
    default=None,
    help="Let people who may change a model try its versions on this machine; default: where only"
    " this machine can connect.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, then serve.")
@click.argument("mlflow_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- MLFLOW_OPTIONS]")
def server(
    folder: Path,
    host: str,
    port: int,
    workers: int,
    login: bool,  # noqa: FBT001 - click passes flags
    trials: bool | None,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    mlflow_options: tuple[str, ...],
) -> None:
    """Start MLflow's server with the gate and the review console.

    Everything is kept on sqlite in one folder. The console is below /agents, the API below
    /api/agents/v1.

    What follows `--` goes to `mlflow server`, for example `-- --allowed-hosts mlflow.example.com`.
    """
    _check_port(host, port)
    place = _Place(folder.absolute())
    place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment, password = _login(place) if login else ({}, None)
    # Said either way: what this process happens to have inherited must not take the login away.
    trials = _is_local(host) if trials is None else trials
    environment |= {
        LOGIN_VARIABLE: str(login).lower(),
        TRIALS_VARIABLE: str(trials).lower(),
        **_stores(place),
    }
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared
    data: dict[str, Any] = {
        "url": url,
        "folder": str(place.folder),
        "console": f"{url}/agents/",
        "registry_uri": f"agents+sqlite:///{place.database}",
        "store_uri": environment["MLFLOW_AGENTS_STORE_URI"],
        "login": login,
        "trials": trials,
    }
    if password is not None:
        data |= {"admin_username": ADMIN, "admin_password": password}
    print_answer(Answer(data, _introduction(data)), as_json=as_json)
    if not login and not _is_local(host):
        warning = f"WARNING: whoever reaches {host}:{port} can change everything. Drop --no-login."
        click.secho(warning, fg="red", bold=True, err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    _become(
        [
            sys.executable, "-m", "mlflow", "server",
            "--host", host, "--port", str(port), "--workers", str(workers),
            "--backend-store-uri", f"sqlite:///{place.database}",
            "--registry-store-uri", f"agents+sqlite:///{place.database}",
            "--artifacts-destination", str(place.folder / "artifacts"),
            "--app-name", "agents",
            *mlflow_options,
        ],
        environment,
        log_to_stderr=as_json,
    )  # fmt: skip


def _stores(place: _Place) -> dict[str, str]:
    """Return what the console reads, unless the settings say so already."""
    defaults = {
        "MLFLOW_AGENTS_STORE_URI": place.runtime_store,
        "MLFLOW_AGENTS_MONITORING_TABLE": str(place.monitoring),
    }
    return {name: os.environ.get(name) or value for name, value in defaults.items()}


def _introduction(data: dict[str, Any]) -> list[str]:
    lines = [
        f"MLflow with the gated registry: {data['url']}",
        f"Review console: {data['console']}",
        f"  export MLFLOW_TRACKING_URI={data['url']}",
        f"  export MLFLOW_AGENTS_STORE_URI={data['store_uri']}   # where agents are served",
    ]
    if "admin_password" in data:
        lines += [
            f"  administrator: {ADMIN}, password: {data['admin_password']}",
            "  (shown this once; change it with MLflow's update-password API)",
        ]
    if data["login"]:
        lines += [
            "Create users, with the administrator's credentials in MLFLOW_TRACKING_USERNAME and",
            "MLFLOW_TRACKING_PASSWORD:",
            "  mlflow-agents user add ann",
            "  mlflow-agents user add rita --role reviewer",
        ]
    return lines


def _login(place: _Place) -> tuple[dict[str, str], str | None]:
    """Return the environment of a server with login, and the password made for it, if any."""
    from importlib.util import find_spec

    if find_spec("flask_wtf") is None:
        raise ConfigError(
            "MLflow's login needs Flask-WTF",
            where="--login",
            hint="pip install 'mlflow-agent-plugin[server]', or use --no-login for yourself.",
        )
    _write_private(place.auth_ini, _AUTH_INI.format(database=place.users, admin=ADMIN))
    _write_private(place.secret, secrets.token_urlsafe(32))
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(place.auth_ini),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": place.secret.read_text("utf-8"),
    }
    if _has_admin(place.users):
        return environment, None
    given = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")
    password = given or secrets.token_urlsafe(_PASSWORD_BYTES)
    _make_admin({**environment, "MLFLOW_AUTH_ADMIN_PASSWORD": password})
    return environment, None if given else password


def _make_admin(environment: dict[str, str]) -> None:
    """Create the user database and its administrator before several workers would try to."""
    code = "from mlflow.server.auth import bootstrap_admin_user as make; make()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ["no reason given"]
        raise ConfigError(
            f"the administrator cannot be made: {lines[-1]}",
            where="MLFLOW_AUTH_ADMIN_PASSWORD",
        )


def _write_private(path: Path, text: str) -> None:
    """Write a file only this user can read, unless it is there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def _has_admin(users: Path) -> bool:
    if not users.exists():
        return False
    connection = sqlite3.connect(f"file:{users}?mode=ro", uri=True)
    try:
        found = connection.execute("SELECT 1 FROM users WHERE is_admin LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return False
        raise ConfigError(f"cannot be read: {error}", where=str(users)) from error
    finally:
        connection.close()
    return found is not None


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{host}:{port}",
            hint="Give another --port.",
        ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _become(command: Sequence[str], environment: dict[str, str], *, log_to_stderr: bool) -> None:
    """Let the server take the place of this process."""
    if log_to_stderr:
        # Standard output holds one document already.
        os.dup2(2, 1)
    own = {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"}
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    if os.name == "posix":
        # Signals reach the server itself, and nothing is left running without it.
        os.execve(command[0], list(command), {**inherited, **environment})  # noqa: S606
    ended = subprocess.run(command, env={**inherited, **environment}, check=False)
    raise click.exceptions.Exit(ended.returncode)


# --- users ---------------------------------------------------------------------------------------


@click.group()
def user() -> None:
    """People who log in to the server."""


@user.command("add")
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="e.g. reviewer; may be repeated.")
@click.option("--password-stdin", is_flag=True, help="Read the password; default: make one.")
@click.option("--server", "url", help="Default: MLFLOW_TRACKING_URI.")
@answers
def user_add(
    name: str,
    roles: tuple[str, ...],
    password_stdin: bool,  # noqa: FBT001
    url: str | None,
) -> Answer:
    """Create the user NAME, who may change models, and give roles that gates ask for.

    Needs the administrator's credentials in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    where = url or str(mlflow.get_tracking_uri())
    if not where.startswith(("http://", "https://")):
        raise ConfigError(
            f"{where} is no server", where="--server", hint="Give its http:// address."
        )
    password = (
        sys.stdin.readline().rstrip("\n")
        if password_stdin
        else secrets.token_urlsafe(_PASSWORD_BYTES)
    )
    client = AuthServiceClient(where)
    try:
        client.create_user(name, password)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            raise IdentityError(f"there is a user {name} already", where=where) from error
        if "401" in str(error):
            raise IdentityError(
                "the server does not know this administrator",
                where=where,
                hint="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            ) from error
        raise
    for role in ("author", *roles):
        client.assign_role(name, _role(client, role))
    data: dict[str, Any] = {"user": name, "roles": list(roles), "server": where}
    lines = [f"created: {name}" + (f", {', '.join(roles)}" if roles else "")]
    if not password_stdin:
        data["password"] = password
        lines.append(f"password: {password} (shown this once)")
    return Answer(data, lines)


def _role(client: Any, name: str) -> int:
    """Return the id of a role, which is made if it is not there."""
    found = next((role for role in client.list_roles("default") if role.name == name), None)
    if found is None:
        found = client.create_role("default", name)
        for kind in ("experiment", "registered_model"):
            client.add_role_permission(found.id, kind, "*", "EDIT")
    return int(found.id)


COMMANDS = (server, user)
