"""Reading what is there now: a real HTTP API, a real MCP server, real folders."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.observability.environment import (
    PartStatus,
    Pins,
    check_environment,
    load_sources,
)
from mlflow_agent_plugin.package import ToolContract

BANK = Path(__file__).parent / "mcp_bank.py"


MALFORMED = json.dumps(
    {
        "openapi": "3.0.0",
        "paths": {
            "/": {
                "get": {
                    "operationId": "getAccount",
                    "parameters": [{"in": "query", "schema": 3, "name": []}],
                    "responses": 4,
                }
            }
        },
    }
).encode()


class Api:
    """An HTTP API that describes itself; `body` is what it says, `seen` what it was asked."""

    def __init__(self, document):
        self.body = json.dumps(document).encode()
        self.status = 200
        self.seen = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802 - the base class's name
                api.seen.append(dict(self.headers))
                self.send_response(api.status)
                self.send_header("Content-Length", str(len(api.body)))
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/openapi.json"


@pytest.fixture
def api(openapi):
    """The API, running."""
    running = Api(openapi)
    yield running
    running.server.shutdown()
    running.server.server_close()


def write(folder, *sources):
    path = folder / "environment.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "mlflow-agents/v1", "sources": list(sources)}))
    return load_sources(path)


def pins(*contracts, knowledge=None):
    return Pins("support", "sha256:aa", {each.name: each for each in contracts}, knowledge)


def openapi_at(location, **more):
    operations = {"get_account": "getAccount"}
    return {"kind": "openapi", "location": location, "operations": operations, **more}


def test_a_live_api_is_as_pinned_until_it_changes(contract, api, openapi, tmp_path):
    sources = write(tmp_path, openapi_at(api.url))
    assert check_environment(pins(contract), sources).changed is False
    openapi["components"]["schemas"]["Currency"]["enum"] = ["EUR"]
    api.body = json.dumps(openapi).encode()
    verdict = check_environment(pins(contract), sources)
    assert verdict.changed is True
    assert "`currency` no longer accepts 'USD'" in verdict.summary()
    del openapi["paths"]["/accounts/{account_id}"]["get"]
    api.body = json.dumps(openapi).encode()
    assert "no longer has this tool" in check_environment(pins(contract), sources).summary()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 200, "no OpenAPI 3 document"),
        (b"<html>", 200, "no OpenAPI 3 document"),
        (b"\xff\xfe{", 200, "neither JSON nor YAML"),
        (b"[" * 100_000, 200, "neither JSON nor YAML"),
        (MALFORMED, 200, "malformed"),
        (b"{}", 503, "answers 503"),
    ],
)  # fmt: skip
def test_an_api_that_cannot_be_read_is_unknown_and_never_unchanged(
    contract, api, tmp_path, body, status, says
):
    api.body, api.status = body, status
    verdict = check_environment(pins(contract), write(tmp_path, openapi_at(api.url)))
    assert verdict.changed is None
    (part,) = verdict.parts
    assert part.status is PartStatus.UNKNOWN
    assert says in part.reasons[0]


def test_an_api_that_drips_its_answer_is_given_up(contract, tmp_path):
    """Each piece comes in time, the whole never does."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not stop.wait(0.02):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json"
        verdict = check_environment(
            pins(contract), write(tmp_path, openapi_at(url, timeout_seconds=0.2))
        )
    finally:
        stop.set()
        thread.join()
        listener.close()
    assert verdict.changed is None
    assert "takes too long" in verdict.summary() or "cannot be fetched" in verdict.summary()


def test_an_api_that_is_away_is_unknown_and_its_password_not_shown(contract, tmp_path):
    sources = write(tmp_path, openapi_at("http://u:hunter2@127.0.0.1:9/openapi.json?key=hunter2"))
    verdict = check_environment(pins(contract), sources)
    assert verdict.changed is None
    assert "hunter2" not in json.dumps(verdict.to_dict())


def test_a_header_takes_its_value_from_the_environment(contract, api, tmp_path, monkeypatch):
    sources = write(tmp_path, openapi_at(api.url, headers={"Authorization": "BANK_TOKEN"}))
    assert "BANK_TOKEN is not set" in check_environment(pins(contract), sources).summary()
    assert api.seen == []
    monkeypatch.setenv("BANK_TOKEN", "Bearer hunter2")
    verdict = check_environment(pins(contract), sources)
    assert verdict.changed is False
    assert api.seen[0]["Authorization"] == "Bearer hunter2"
    assert "hunter2" not in json.dumps(verdict.to_dict())


def test_a_document_in_a_file_is_found_beside_the_environment_file(contract, openapi, tmp_path):
    (tmp_path / "api.yaml").write_text(yaml.safe_dump(openapi))
    assert (
        check_environment(pins(contract), write(tmp_path, openapi_at("api.yaml"))).changed is False
    )


def mcp_contract():
    schema = {"type": "object", "required": ["account_id"], "additionalProperties": False}
    return ToolContract.model_validate(
        {
            "apiVersion": "mlflow-agents/v1", "name": "get_account", "version": "1.0.0",
            "description": "Show one account.", "effect": "read",
            "input": {**schema, "properties": {"account_id": {"type": "string"}}},
            "output": {"type": "object", "additionalProperties": {"type": "integer"}},
        }
    )  # fmt: skip


@pytest.mark.integration
def test_an_mcp_server_is_asked_what_it_offers_as_a_process(tmp_path, monkeypatch):
    sources = write(
        tmp_path,
        {"kind": "mcp", "command": [sys.executable, str(BANK), "stdio"], "timeout_seconds": 60},
    )

    async def in_a_notebook():
        return check_environment(pins(mcp_contract()), sources)

    verdict = asyncio.run(in_a_notebook())
    assert verdict.changed is False, verdict.summary()
    away = write(tmp_path, {"kind": "mcp", "command": [sys.executable, "-c", "1"]})
    assert check_environment(pins(mcp_contract()), away).changed is None


@pytest.mark.integration
def test_an_mcp_server_over_http_that_changed_a_tool_is_noticed(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = {
        "kind": "mcp",
        "url": f"http://127.0.0.1:{port}/mcp",
        "tools": {"get_account": "get_account"},
        "timeout_seconds": 60,
    }
    sources = write(tmp_path, source)
    assert check_environment(pins(mcp_contract()), sources).changed is None  # nobody there
    process = subprocess.Popen(
        [sys.executable, str(BANK), "http", str(port)],
        env={**os.environ, "BANK_CHANGED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:  # it says so when it listens
            if "running on" in line:
                break
        verdict = check_environment(pins(mcp_contract()), sources)
    finally:
        process.kill()
        process.wait()
    assert verdict.changed is True
    assert "`branch` is new and required" in verdict.summary()


def test_knowledge_is_compared_file_by_file_and_a_missing_folder_is_unknown(tmp_path):
    from hashlib import sha256

    folder = tmp_path / "wiki"
    folder.mkdir()
    (folder / "fees.md").write_text("Free.")
    pinned = pins(knowledge={"fees.md": sha256(b"Free.").hexdigest()})
    sources = write(tmp_path, {"kind": "knowledge", "location": "wiki"})
    assert check_environment(pinned, sources).changed is False
    (folder / "fees.md").write_text("One euro.")
    assert "1 of 1 files changed: fees.md" in check_environment(pinned, sources).summary()
    nowhere = write(tmp_path, {"kind": "knowledge", "location": "nowhere"})
    assert check_environment(pinned, nowhere).changed is None
    download = write(tmp_path, {"kind": "knowledge", "location": "runs:/" + "0" * 32 + "/wiki"})
    assert check_environment(pinned, download).changed is None


def test_tools_without_a_source_are_named(contract, tmp_path):
    (tmp_path / "wiki").mkdir()
    sources = write(tmp_path, {"kind": "knowledge", "location": "wiki"})
    assert check_environment(pins(contract, knowledge={}), sources).unwatched == ("get_account",)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([], "sources"),
        ([{"kind": "mcp"}], "either url or command"),
        ([{"kind": "mcp", "url": "http://a/", "command": ["b"]}], "either url or command"),
        ([{"kind": "openapi", "location": "a", "operations": {}}], "operations"),
        ([{"kind": "soap", "location": "a"}], "kind"),
        ([openapi_at("a", headers={"A": "Bearer secret"})], "headers"),
    ],
)
def test_a_malformed_environment_file_is_one_error(tmp_path, sources, says):
    with pytest.raises(ConfigError, match=says) as caught:
        write(tmp_path, *sources)
    assert "environment.yaml" in str(caught.value)


def test_a_source_for_what_the_agent_has_not_is_a_mistake(contract, tmp_path, api):
    with pytest.raises(ConfigError, match="no tool get_account"):
        check_environment(pins(), write(tmp_path, openapi_at(api.url)))
    with pytest.raises(ConfigError, match="no knowledge"):
        check_environment(
            pins(contract), write(tmp_path, {"kind": "knowledge", "location": str(tmp_path)})
        )
