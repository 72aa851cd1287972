"""The plugin over MCP, to read only; and the commands that pin other servers."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
import yaml
from helpers.registry_world import World
from helpers.rollout_world import put
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.interaction.mcp.reading import Reading
from mlflow_agent_plugin.interaction.mcp.server import make_server, with_login
from mlflow_agent_plugin.interaction.serve.people import Doorkeeper, make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.store import Store

pytestmark = pytest.mark.integration

SHELF = Path(__file__).parents[1] / "helpers" / "mcp_shelf.py"
WALT = Actor("walt", "home", frozenset({"warden"}), verified=True)
EVE = Actor("eve", "elsewhere", frozenset({"warden"}), verified=True)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"agents+sqlite:///{tmp_path}/mlflow.db")
    return World(tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def waiting(tmp_path):
    """Let a call wait for an answer; give the id of its request."""
    root = write_bundle(tmp_path / "b", [call("burn", "letter")], folder=tmp_path / "things")
    with AgentRuntime.open(load_bundle(root), tracing=False) as runtime:
        runtime.invoke(AgentRequest("burn it", None, Actor("ann", "home", verified=True)))
    from mlflow_agent_plugin.trust import AuditLog

    with Store.open() as store:
        return AuditLog(store).events(kind="request_received")[0].request_id


def asked(server, *calls, **more):
    """Return what tools answered: (is_error, value) each; `None` asks for the list."""
    from mcp import Client

    async def run():
        async with Client(server, **more) as client:
            listed = (await client.list_tools()).tools
            found = []
            for name, arguments in calls:
                result = await client.call_tool(name, arguments)
                text = "".join(getattr(block, "text", "") for block in result.content)
                found.append((result.is_error, result.structured_content or text))
            return listed, found

    return asyncio.run(run())


def test_every_tool_only_reads_and_says_so(world):
    with Store.open() as store:
        listed, _ = asked(make_server(Reading(store), lambda _: WALT))
    assert len(listed) == 9
    for tool in listed:
        assert tool.annotations.read_only_hint is True, tool.name
        assert tool.description, tool.name
        assert "actor" not in tool.input_schema.get("properties", {}), tool.name
        assert "ctx" not in tool.input_schema.get("properties", {}), tool.name


def test_registry_rollouts_and_audit_can_be_read(world):
    put(world, "one", "@champion")
    with Store.open() as store:
        _, found = asked(
            make_server(Reading(store), lambda _: WALT),
            ("list_agents", {}), ("describe_agent", {"name": "shelf"}),
            ("gate_report", {"name": "shelf", "version": 1, "slot": "@canary"}),
            ("slot_history", {"name": "shelf", "slot": "@champion"}),
            ("list_rollouts", {}), ("list_stopped", {}), ("verify_audit", {}),
            ("describe_agent", {"name": "nobody"}),
        )  # fmt: skip
    assert found[0][1]["agents"][0]["aliases"] == {"champion": 1}
    assert found[1][1]["versions"][0]["gate"]["@champion"] == "in @champion now"
    assert found[2][1]["passed"] is True
    assert [entry["kind"] for entry in found[3][1]["entries"]] == ["promoted"]
    assert found[6][1]["ok"] is True
    assert found[7][0] is True
    assert "not found" in found[7][1]
    assert "Traceback" not in found[7][1]


def test_approvals_and_requests_are_those_of_the_callers_tenant(world, waiting):
    calls = (("list_waiting_approvals", {}), ("tell_request", {"request_id": waiting}))
    with Store.open() as store:
        _, own = asked(make_server(Reading(store), lambda _: WALT), *calls)
        _, others = asked(make_server(Reading(store), lambda _: EVE), *calls)
    assert [item["tool"] for item in own[0][1]["approvals"]] == ["burn"]
    assert own[1][1]["actor"]["user"] == "ann"
    assert others[0][1]["approvals"] == []
    assert others[1][0] is True
    assert "no such request" in others[1][1]


def test_over_http_nobody_is_answered_without_a_credential(world, waiting, tmp_path):
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    key, digest = make_key()
    (tmp_path / "keys.yaml").write_text(
        json.dumps({"keys": [{"sha256": digest, "actor": "walt@home:warden"}]})
    )
    door = Doorkeeper(ServeSettings(agents={}, deployments=True, keys=str(tmp_path / "keys.yaml")))
    with Store.open(Settings.from_env().store_uri) as store:
        mcp = make_server(Reading(store), lambda headers: door.identify(headers["authorization"]))
        app = with_login(mcp.streamable_http_app(stateless_http=True, json_response=True), door)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"

            def link(headers):
                return streamable_http_client(url, http_client=httpx2.AsyncClient(headers=headers))

            _, found = asked(
                link({"Authorization": f"Bearer {key}"}), ("list_waiting_approvals", {})
            )
            assert [item["tool"] for item in found[0][1]["approvals"]] == ["burn"]
            for headers in ({}, {"Authorization": "Bearer mak_guess"}):
                answer = httpx2.post(url, json={}, headers=headers)
                assert answer.status_code == 401
                with pytest.raises(Exception):  # noqa: B017, PT011 - the client's own kinds
                    asked(link(headers))
        finally:
            server.should_exit = True
            thread.join(60)


def test_a_server_is_pinned_checked_and_noticed_when_it_changes(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("SHELF_FOLDER", str(tmp_path))
    command = [sys.executable, str(SHELF), "stdio"]
    bundle = write_bundle(tmp_path / "bundle", [say("x")], folder=tmp_path / "things")
    pinned = cli(
        "mcp", "pin", "--name", "shelf", "--tool", "find", "--contracts", bundle / "contracts",
        "--json", "--", *command,
    ).json  # fmt: skip
    assert [tool["name"] for tool in pinned["mcp"][0]["tools"]] == ["find"]
    draft = yaml.safe_load((bundle / "contracts/find.yaml").read_text())
    assert draft["effect"] == "irreversible"
    assert draft["description"].startswith("DRAFT")
    manifest = yaml.safe_load((bundle / "agent.yaml").read_text())
    server = {**pinned["mcp"][0], "environment": ["SHELF_FOLDER"], "connect_seconds": 60}
    manifest["tools"]["mcp"] = [server]
    (bundle / "agent.yaml").write_text(yaml.safe_dump(manifest))
    assert cli("mcp", "check", bundle, "--json").json[0]["status"] == "same"
    (tmp_path / "changed").write_text("")
    assert cli("mcp", "check", bundle, "--json", code=1).json[0]["status"] == "changed"
    manifest["tools"]["mcp"][0]["command"] = [sys.executable, "-c", "raise SystemExit(1)"]
    (bundle / "agent.yaml").write_text(yaml.safe_dump(manifest))
    assert cli("mcp", "check", bundle, "--json", code=1).json[0]["status"] == "unknown"
    assert "no tool nobody" in cli("mcp", "pin", "--tool", "nobody", "--", *command, code=1).err
    assert "either url or command" in cli("mcp", "pin", code=1).err
