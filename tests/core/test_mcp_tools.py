"""Tools of real MCP servers, as a process and over HTTP, through the gateway and never around it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml
from helpers.agents_server import free_port
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.mcp import declared_tools
from mlflow_agent_plugin.core.mcp.link import McpLink
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.errors import ContractError, ManifestError, ToolUnavailableError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.package.mcp import McpServer, schema_digest
from mlflow_agent_plugin.trust import AuditLog

pytestmark = pytest.mark.integration

SHELF = Path(__file__).parents[1] / "helpers" / "mcp_shelf.py"
ANN = Actor("ann", verified=True)
STDIO = {"command": [sys.executable, str(SHELF), "stdio"], "environment": ["SHELF_FOLDER"],
         "connect_seconds": 60}  # fmt: skip
NOWHERE = "sha256:" + "0" * 64

CONTRACT = """
apiVersion: mlflow-agents/v1
name: {name}
version: 1.0.0
description: {name} by a server
effect: {effect}
timeout_seconds: {timeout}
input:
  type: object
  additionalProperties: false
  required: [item]
  properties: {{item: {{type: string}}}}
output:
  type: object
  additionalProperties: false
  properties: {{place: {{type: string}}, text: {{type: string}}, result: {{type: string}}}}
"""
PERMIT = """
@id("servers")
@unverified("allow")
permit (principal, action in [Agent::Action::"fetch", Agent::Action::"stow"], resource);
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """What the server declares: the digest of each tool."""
    os.environ["SHELF_FOLDER"] = str(tmp_path_factory.mktemp("shelf"))
    try:
        server = McpServer.model_validate(
            {"name": "x", **STDIO, "tools": [{"name": "x", "digest": NOWHERE}]}
        )
        return {tool.name: tool.digest for tool in declared_tools(server)}
    finally:
        del os.environ["SHELF_FOLDER"]


@pytest.fixture
def agent(tmp_path, digests, monkeypatch):
    """Return a function that opens an agent whose model calls what a test says."""
    monkeypatch.setenv("SHELF_FOLDER", str(tmp_path))
    opened = []

    def make(*replies, place=None, contract="", **changes):
        root = write_bundle(tmp_path / "bundle", list(replies), folder=tmp_path / "things")
        manifest = yaml.safe_load((root / "agent.yaml").read_text())
        server = {
            "name": "shelf", **(place or STDIO),
            "tools": [
                {"name": "fetch", "tool": "find", "digest": digests["find"]},
                {"name": "stow", "tool": "store", "digest": digests["store"]},
            ],
            **changes,
        }  # fmt: skip
        manifest["tools"]["mcp"] = [server]
        (root / "agent.yaml").write_text(yaml.safe_dump(manifest))
        for name, effect, timeout in (("fetch", "read", 20), ("stow", "irreversible", 2)):
            text = CONTRACT.format(name=name, effect=effect, timeout=timeout)
            (root / f"contracts/{name}.yaml").write_text(text + contract)
        with (root / "policies/permit.cedar").open("a") as file:
            file.write(PERMIT)
        runtime = AgentRuntime.open(load_bundle(root), tracing=False)
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()


def ask(runtime, text="go", session=None):
    return runtime.invoke(AgentRequest(text, session, ANN))


def only_call(reply):
    assert len(reply.calls) == 1
    return reply.calls[0]


def effects(tmp_path):
    path = tmp_path / "mcp-effects.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_call_goes_through_the_gateway_and_its_output_is_untrusted(agent, tmp_path):
    runtime = agent(call("fetch", "lamp"), say("found"), call("stow", "chair"), say("done"))
    assert runtime.bundle.contracts["fetch"].untrusted_output is True
    found = ask(runtime, session="s")
    assert only_call(found).output == {"place": "top, beside lamp"}
    stored = ask(runtime, session="s")
    assert only_call(stored).status.value == "executed"
    assert effects(tmp_path) == ["chair"]
    log = AuditLog(runtime.store)
    decided = [event.body["tool"] for event in log.events(kind="tool_call_decided")]
    assert decided == ["fetch", "stow"]
    # The model knows the contract's words, not the server's.
    shown = {tool.name: tool.description for tool in _descriptions(runtime)}
    assert shown["fetch"] == "fetch by a server"


def _descriptions(runtime):
    from mlflow_agent_plugin.core.context import describe_tools

    return describe_tools([runtime.bundle.contracts[n] for n in runtime.bundle.contracts])


def test_policies_forbid_a_servers_tool_like_any_other(agent, tmp_path):
    runtime = agent(call("stow", "gold"), say("no"))
    path = runtime.bundle.root / "policies/hard.cedar"
    path.write_text(
        path.read_text()
        + '@id("no-gold-there") forbid (principal, action == Agent::Action::"stow", resource)\n'
        'when { context.input.item == "gold" };\n'
    )
    again = AgentRuntime.open(load_bundle(runtime.bundle.root), tracing=False)
    try:
        assert only_call(ask(again)).status.value == "denied"
    finally:
        again.close()
    assert effects(tmp_path) == []


def test_contract_and_output_are_checked(agent):
    runtime = agent(
        call("fetch", "odd"), say("x"), call("fetch", "lamp", more=1), say("y"),
    )  # fmt: skip
    odd = only_call(ask(runtime, session="s"))
    assert "breaks the tool's own contract" in odd.error
    assert only_call(ask(runtime, session="s")).status.value == "invalid"


def test_a_server_that_declares_something_else_is_not_called(agent, tmp_path, monkeypatch):
    runtime = agent(call("fetch", "lamp"), say("x"), call("fetch", "lamp"), say("y"))
    assert only_call(ask(runtime, session="s")).status.value == "executed"
    (tmp_path / "changed").write_text("")
    runtime._mcp._links[0]._drop(runtime._mcp._links[0]._session)  # it starts again
    changed = only_call(ask(runtime, session="s"))
    assert changed.status.value == "failed"
    assert "otherwise than was pinned" in changed.error


def test_a_change_while_connected_is_noticed(digests, tmp_path, monkeypatch):
    """The declarations are read again after a while, over the same connection."""
    monkeypatch.setenv("SHELF_FOLDER", str(tmp_path))
    now = [0.0]
    server = McpServer.model_validate(
        {"name": "s", **STDIO, "tools": [{"name": "find", "digest": digests["find"]}]}
    )
    link = McpLink(server, tmp_path, monotonic=lambda: now[0])
    try:
        sent = {"arguments": {"item": "a"}, "meta": {}, "timeout_seconds": 20}
        link.call("find", digests["find"], **sent)
        link._session.declared = {"find": ({"type": "object"}, None, "")}
        with pytest.raises(ToolUnavailableError, match="otherwise"):
            link.call("find", digests["find"], **sent)
        now[0] += 31
        assert link.call("find", digests["find"], **sent).structured_content
        with pytest.raises(ToolUnavailableError, match="has no tool"):
            link.call("nothing", digests["find"], **sent)
    finally:
        link.close()
    with pytest.raises(ToolUnavailableError, match="was closed"):
        link.call("find", digests["find"], **sent)


def test_an_error_of_a_read_is_an_error_and_of_a_write_nobody_knows(agent):
    runtime = agent(call("fetch", "broken"), say("x"), call("stow", "refused"), say("y"))
    assert "the shelf is broken" in only_call(ask(runtime, session="s")).error
    assert only_call(ask(runtime, session="s")).status.value == "in_doubt"


def test_where_the_server_promises_an_error_did_nothing(agent):
    runtime = agent(call("fetch", "lamp"), say("x"), call("stow", "refused"), say("y"),
                    errors_have_no_effect=True)  # fmt: skip
    ask(runtime, session="s")
    refused = only_call(ask(runtime, session="s"))
    assert (refused.status.value, "no room" in refused.error) == ("failed", True)


def test_a_server_that_is_still_starting_was_not_called(agent, tmp_path, monkeypatch):
    """Connecting takes longer than the call may: the write failed, and is not in doubt."""
    from mlflow_agent_plugin.core.mcp import link

    monkeypatch.setattr(link, "CONNECT_SHARE", 0.001)
    runtime = agent(call("stow", "chair"), say("y"))
    early = only_call(ask(runtime))
    assert (early.status.value, "still starting" in early.error) == ("failed", True)
    assert effects(tmp_path) == []


def test_a_write_that_takes_too_long_is_in_doubt(agent):
    runtime = agent(call("fetch", "lamp"), say("x"), call("stow", "slow"), say("y"))
    ask(runtime, session="s")
    assert only_call(ask(runtime, session="s")).status.value == "in_doubt"


def test_a_server_that_dies_is_started_again_by_the_next_call(agent):
    runtime = agent(call("fetch", "die"), say("x"), call("fetch", "lamp"), say("y"))
    assert only_call(ask(runtime, session="s")).status.value == "failed"
    assert only_call(ask(runtime, session="s")).status.value == "executed"


def test_over_http_with_a_header_from_the_environment(agent, tmp_path, monkeypatch):
    port = free_port()
    environment = {**os.environ, "SHELF_TOKEN": "let-me-in", "SHELF_FOLDER": str(tmp_path)}
    process = subprocess.Popen([sys.executable, str(SHELF), "http", str(port)], env=environment)
    try:
        url = f"http://127.0.0.1:{port}/mcp"
        deadline = time.monotonic() + 60
        while True:
            try:
                requests.get(url, timeout=2)
                break
            except requests.RequestException:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        place = {"url": url, "headers": {"Authorization": "SHELF_AUTH"}}
        monkeypatch.setenv("SHELF_AUTH", "Bearer wrong")
        refused = agent(call("fetch", "lamp"), say("x"), place=place)
        assert "does not answer" in only_call(ask(refused)).error
        monkeypatch.setenv("SHELF_AUTH", "Bearer let-me-in")
        runtime = agent(call("fetch", "lamp"), say("x"), place=place)
        assert only_call(ask(runtime)).output == {"place": "top, beside lamp"}
    finally:
        process.kill()
        process.wait()
    assert (
        only_call(ask(agent(call("fetch", "lamp"), say("x"), place=place))).status.value == "failed"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"url": "http://x/"}, "either url or command"),
        ({"command": []}, "either url or command"),
        ({"command": [], "url": "http://me:pw@x/"}, "holds a password"),
        ({"headers": {"A": "B"}}, "headers go with url"),
        ({"tools": []}, "at least 1"),
        ({"tools": [{"name": "fetch", "digest": "sha256:x"}]}, "digest"),
        ({"tools": [{"name": "look", "digest": NOWHERE}]}, "more than once"),
        ({"tools": [{"name": "nobody", "digest": NOWHERE}]}, "no contract"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(agent, changes, problem):
    place = {**STDIO, **changes}
    if place.get("url"):
        place.pop("environment")
    with pytest.raises((ManifestError, ContractError), match=problem):
        agent(say("x"), place=place, **{k: v for k, v in changes.items() if k == "tools"})


def test_a_contract_can_say_that_a_server_is_trusted(agent):
    runtime = agent(say("x"), contract="untrusted_output: false\n")
    assert runtime.bundle.contracts["fetch"].untrusted_output is False


def test_the_digest_is_of_name_and_schemas_and_of_nothing_else():
    one = schema_digest("find", {"type": "object"}, None)
    assert one == schema_digest("find", {"type": "object"}, None)
    assert len({one, schema_digest("found", {"type": "object"}, None),
                schema_digest("find", {"type": "object", "title": "x"}, None),
                schema_digest("find", {"type": "object"}, {})}) == 4  # fmt: skip
