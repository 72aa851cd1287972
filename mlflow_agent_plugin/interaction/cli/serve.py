"""Commands of the front end before served agents: serve, api-key."""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.interaction.cli.answer import Answer, print_answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import FILE, PATH, json_option


@click.command()
@click.argument("models", nargs=-1, metavar="[NAME=]MODEL_URI…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port."
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes."
)
@click.option("--keys", type=FILE, help="File of API keys, see `api-key make`.")
@click.option("--oidc-issuer", help="OpenID Connect issuer whose tokens are believed.")
@click.option("--oidc-audience", help="Audience those tokens must name.")
@click.option("--oidc-user-claim", default="sub", show_default=True, help="Claim with the user.")
@click.option(
    "--oidc-tenant-claim", default="tenant", show_default=True, help="Claim with the tenant."
)
@click.option(
    "--oidc-roles-claim", default="roles", show_default=True, help="Claim with the roles, dotted."
)
@click.option("--anonymous", is_flag=True, help="Answer requests without a credential too.")
@click.option(
    "--max-body-bytes",
    default=1024 * 1024,
    show_default=True,
    type=click.IntRange(1024),
    help="Longest request.",
)
@click.option(
    "--body-seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest time a request may take to arrive.",
)
@click.option(
    "--timeout-seconds",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest wait for an answer.",
)
@click.option(
    "--max-concurrent",
    default=16,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Turns at a time, per worker.",
)
@click.option(
    "--shutdown-seconds",
    default=60,
    show_default=True,
    type=click.IntRange(1, 3600),
    help="How long running requests may take to finish at the end.",
)
@click.option(
    "--follow-seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How often stages, aliases and rollouts are looked at; 0: never.",
)
@click.option("--deployments", is_flag=True, help="Serve what operators deploy over the API too.")
@click.option(
    "--grpc-port", type=click.IntRange(1, 65535), help="Port of gRPC, beside HTTP; default: none."
)
@click.option(
    "--operator-role",
    default="operator",
    show_default=True,
    help="Role that may change rollouts and deployments over the API.",
)
@click.option(
    "--labeller-role",
    default="labeller",
    show_default=True,
    help="Role that may say over the API what a request really was; retraining learns from it.",
)
@json_option
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    as_json: bool,  # noqa: FBT001 - click passes flags
    **options: Any,
) -> None:
    """Serve agents over HTTP with login and OpenAI's formats.

    A credential is an API key, an actor token of this machine's trusted keys, or a token of the
    OpenID Connect issuer, in `Authorization: Bearer …`.
    """
    from mlflow_agent_plugin.interaction.serve.people import Doorkeeper
    from mlflow_agent_plugin.interaction.serve.settings import VARIABLE

    settings = _settings(models, host, options)
    Doorkeeper(settings)  # says what is wrong before a worker starts
    environment = {**os.environ, VARIABLE: settings.model_dump_json()}
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        environment["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="mlflow-agents-metrics-")
    names = ", ".join(settings.agents) or "deployments"
    url = f"http://{host}:{port}"
    said = f"serving {names} on {url} (POST /v1/responses)"
    print_answer(Answer({"agents": list(settings.agents), "url": url}, (said,)), as_json=as_json)
    command = [
        sys.executable, "-m", "uvicorn", "--factory",
        "mlflow_agent_plugin.interaction.serve.app:make_app",
        "--host", host, "--port", str(port), "--workers", str(workers), "--no-server-header",
        "--timeout-graceful-shutdown", str(options["shutdown_seconds"]), "--no-access-log",
    ]  # fmt: skip
    sys.stdout.flush()
    sys.stderr.flush()
    # Signals reach the server itself, and nothing is left running without it.
    os.execve(command[0], command, environment)  # noqa: S606


def _settings(models: tuple[str, ...], host: str, options: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from mlflow_agent_plugin.interaction.serve.settings import OidcSettings, ServeSettings

    agents: dict[str, str] = {}
    for text in models:
        name, separator, uri = text.partition("=")
        if not separator or "/" in name:
            uri, name = text, _name_of(text)
        if name in agents:
            raise ConfigError(f"two agents are called {name}", where=text, hint="Give NAME=URI.")
        agents[name] = uri
    oidc = None
    if (options["oidc_issuer"] is None) != (options["oidc_audience"] is None):
        raise ConfigError(
            "OpenID Connect needs an issuer and an audience", where="--oidc-issuer, --oidc-audience"
        )
    try:
        if options["oidc_issuer"] is not None:
            oidc = OidcSettings(
                issuer=options["oidc_issuer"],
                audience=options["oidc_audience"],
                user_claim=options["oidc_user_claim"],
                tenant_claim=options["oidc_tenant_claim"],
                roles_claim=options["oidc_roles_claim"],
            )
        return ServeSettings(
            agents=agents,
            keys=None if options["keys"] is None else str(Path(options["keys"]).absolute()),
            oidc=oidc,
            anonymous=options["anonymous"],
            max_body_bytes=options["max_body_bytes"],
            body_seconds=options["body_seconds"],
            timeout_seconds=options["timeout_seconds"],
            max_concurrent=options["max_concurrent"],
            follow_seconds=options["follow_seconds"],
            deployments=options["deployments"],
            grpc_address=None if options["grpc_port"] is None else f"{host}:{options['grpc_port']}",
            shutdown_seconds=options["shutdown_seconds"],
            operator_role=options["operator_role"],
            labeller_role=options["labeller_role"],
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], where=where) from error


def _name_of(uri: str) -> str:
    """Return the name requests use for a model URI that came without one."""
    text = uri.removeprefix("models:/").rstrip("/")
    if uri.startswith("models:/"):
        return text.partition("/")[0].partition("@")[0]
    return text.rpartition("/")[2] or "agent"


@click.group("api-key")
def api_key() -> None:
    """API keys of the front end (`serve --keys`)."""


@api_key.command("make")
@click.argument("actor", metavar="USER@TENANT[:ROLE,ROLE]")
@click.option("--file", "path", type=PATH, required=True, help="File the key's hash is added to.")
@click.option("--days", type=click.IntRange(1, 3650), help="When it ends; default: never.")
@click.option("--note", default="", help="For whoever keeps the file.")
@answers
def api_key_make(actor: str, path: Path, days: int | None, note: str) -> Answer:
    """Make an API key for ACTOR; it is shown once, the file keeps its hash."""
    import yaml

    from mlflow_agent_plugin.entities import utc_now
    from mlflow_agent_plugin.interaction.serve.people import make_key
    from mlflow_agent_plugin.trust import parse_actor

    parse_actor(actor)
    key, digest = make_key()
    entry: dict[str, Any] = {"sha256": digest, "actor": actor}
    if days is not None:
        entry["expires"] = (utc_now() + timedelta(days=days)).isoformat(timespec="seconds")
    if note:
        entry["note"] = note
    known = _read_keys(path)
    known["keys"].append(entry)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(known, file, sort_keys=False)
    temporary.replace(path)
    data = {"key": key, "actor": actor, "file": str(path), "expires": entry.get("expires")}
    return Answer(data, (f"{key}", f"for {actor}, shown this once; its hash is in {path}"))


def _read_keys(path: Path) -> dict[str, Any]:
    import yaml

    if not path.exists():
        return {"keys": []}
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ConfigError("cannot be read", where=str(path)) from error
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ConfigError("is no file of API keys", where=str(path), hint="It holds `keys: […]`.")
    return found


COMMANDS = (serve, api_key)
