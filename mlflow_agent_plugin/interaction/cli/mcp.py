"""Commands around MCP: servers as tool sources, and this plugin as a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlflow_agent_plugin.errors import BundleError, ConfigError, ToolUnavailableError
from mlflow_agent_plugin.interaction.cli.answer import Answer, Table, print_answer
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import (
    FILE,
    PATH,
    bundle_argument,
    json_option,
    store_option,
)
from mlflow_agent_plugin.interaction.cli.stores import open_store


@click.group()
def mcp() -> None:
    """MCP servers as tools of agents, and this plugin's own over MCP."""


@mcp.command("pin", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, metavar="[-- COMMAND…]")
@click.option("--url", help="A server over HTTP; else give the COMMAND that starts one.")
@click.option("--name", default="server", show_default=True, help="Its name in agent.yaml.")
@click.option("--tool", "wanted", multiple=True, help="Only this tool; may be repeated.")
@click.option("--header", "headers", multiple=True, metavar="HEADER=VARIABLE",
              help="Header and the environment variable its value comes from.")  # fmt: skip
@click.option("--contracts", type=PATH, metavar="FOLDER", help="Write a draft contract per tool.")
@answers
def mcp_pin(
    command: tuple[str, ...], url: str | None, name: str, wanted: tuple[str, ...],
    headers: tuple[str, ...], contracts: Path | None,
) -> Answer:  # fmt: skip
    """Ask a server what it declares; print what agent.yaml pins.

    No tool is called. Draft contracts say `irreversible` of every tool until somebody has looked:
    correct effect, scopes and description before they are used.
    """
    import yaml

    from mlflow_agent_plugin.core.mcp import declared_tools

    declared = declared_tools(_server(command, url, name, headers))
    missing = sorted(set(wanted) - {tool.name for tool in declared})
    if missing:
        raise ConfigError(f"the server has no tool {missing[0]}", where="--tool")
    chosen = [tool for tool in declared if not wanted or tool.name in wanted]
    names = {tool.name: _name(tool.name) for tool in chosen}
    spec: dict[str, Any] = {"name": name, **({"url": url} if url else {"command": list(command)})}
    if headers:
        spec["headers"] = dict(header.split("=", 1) for header in headers)
    spec["tools"] = [
        {
            "name": names[tool.name],
            **({} if names[tool.name] == tool.name else {"tool": tool.name}),
            "digest": tool.digest,
        }
        for tool in chosen
    ]
    written = []
    for tool in chosen if contracts is not None else ():
        assert contracts is not None
        path = contracts / f"{names[tool.name]}.yaml"
        if path.exists():
            raise BundleError("is there already", where=str(path), hint="Remove it first.")
        contracts.mkdir(parents=True, exist_ok=True)
        path.write_text(_draft(tool, names[tool.name]), encoding="utf-8")
        written.append(str(path))
    text = yaml.safe_dump({"mcp": [spec]}, sort_keys=False, width=100)
    shown = ["below `tools:` of agent.yaml:", text, *(f"wrote {path}" for path in written)]
    return Answer({"mcp": [spec], "contracts": written}, shown)


@mcp.command("check")
@bundle_argument
@answers
def mcp_check(bundle: Path) -> Answer:
    """Compare what BUNDLE pins with what its servers declare now; exit 1 if it differs."""
    from mlflow_agent_plugin.core.mcp import declared_tools
    from mlflow_agent_plugin.package import load_bundle

    loaded = load_bundle(bundle)
    rows: list[tuple[str, str, str, str]] = []
    for server in loaded.manifest.tools.mcp:
        try:
            found = {tool.name: tool.digest for tool in declared_tools(server, loaded.root)}
        except ToolUnavailableError as error:
            rows += [(server.name, tool.name, "unknown", error.problem) for tool in server.tools]
            continue
        for tool in server.tools:
            now = found.get(tool.remote)
            state = "gone" if now is None else "same" if now == tool.digest else "changed"
            rows.append((server.name, tool.name, state, now or ""))
    data = [dict(zip(("server", "tool", "status", "declared"), row, strict=True)) for row in rows]
    table = Table("MCP tools", ("server", "tool", "status", "declared now"), rows)
    return Answer(data, (table,), failed=any(row[2] != "same" for row in rows))


@mcp.command("serve")
@click.option("--port", type=click.IntRange(1, 65535), help="Over HTTP; else stdin and stdout.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--keys", type=FILE, help="File of API keys, see `api-key make`.")
@click.option("--oidc-issuer", help="OpenID Connect issuer whose tokens are believed.")
@click.option("--oidc-audience", help="Audience those tokens must name.")
@store_option
@json_option
def mcp_serve(
    port: int | None, host: str, keys: Path | None, oidc_issuer: str | None,
    oidc_audience: str | None, store_uri: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:  # fmt: skip
    """Offer what this plugin knows to assistants, over MCP: to read, never to change.

    Over stdin and stdout the caller is who starts it (MLFLOW_AGENTS_ACTOR); over HTTP every request
    needs a credential.
    """
    from mlflow_agent_plugin.interaction.mcp.reading import Reading
    from mlflow_agent_plugin.interaction.mcp.server import make_server, with_login
    from mlflow_agent_plugin.interaction.serve.people import Doorkeeper
    from mlflow_agent_plugin.interaction.serve.settings import OidcSettings, ServeSettings
    from mlflow_agent_plugin.trust import local_actor

    with open_store(store_uri) as store:
        if port is None:
            make_server(Reading(store), lambda _headers: local_actor()).run("stdio")
            return
        if (oidc_issuer is None) != (oidc_audience is None):
            raise ConfigError(
                "needs an issuer and an audience", where="--oidc-issuer, --oidc-audience"
            )
        oidc = None
        if oidc_issuer is not None and oidc_audience is not None:
            oidc = OidcSettings(issuer=oidc_issuer, audience=oidc_audience)
        door = Doorkeeper(
            ServeSettings(
                agents={}, deployments=True, oidc=oidc, keys=None if keys is None else str(keys)
            )
        )
        import uvicorn

        server = make_server(
            Reading(store), lambda headers: door.identify((headers or {}).get("authorization"))
        )
        app = server.streamable_http_app(stateless_http=True, json_response=True, host=host)
        url = f"http://{host}:{port}/mcp"
        print_answer(Answer({"url": url}, (f"MCP on {url}",)), as_json=as_json)
        uvicorn.run(with_login(app, door), host=host, port=port, log_level="warning")


def _server(command: tuple[str, ...], url: str | None, name: str, headers: tuple[str, ...]) -> Any:
    from pydantic import ValidationError

    from mlflow_agent_plugin.package.mcp import McpServer

    pairs = [header.partition("=") for header in headers]
    nothing = {"name": "none", "digest": "sha256:" + "0" * 64}
    try:
        return McpServer.model_validate(
            {
                "name": name, "url": url, "command": list(command), "tools": [nothing],
                "headers": {key: value for key, _, value in pairs}, "connect_seconds": 60,
            }
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(first["msg"], where=".".join(map(str, first["loc"])) or None) from None


def _name(remote: str) -> str:
    """Return a name the agent can have for a server's tool."""
    text = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in remote)
    return text if text[:1].isalpha() else f"tool_{text}"


def _draft(tool: Any, name: str) -> str:
    import yaml

    nothing_said = {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {"text": {"type": "string"}},
    }
    draft = {
        "apiVersion": "mlflow-agents/v1",
        "name": name,
        "version": "1.0.0",
        "description": f"DRAFT, by the server: {tool.description or tool.name}",
        "effect": "irreversible",
        "timeout_seconds": 30,
        "input": json.loads(json.dumps(tool.input)),
        "output": nothing_said if tool.output is None else json.loads(json.dumps(tool.output)),
    }
    return yaml.safe_dump(draft, sort_keys=False, width=100)


COMMANDS = (mcp,)
