"""A tool's credential: there while the tool runs, nowhere else and never after."""

from __future__ import annotations

import json
import logging
import re
import threading
from dataclasses import replace

import mlflow
import pytest
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest, CallStatus
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import AuditLog

ANN = Actor(user="ann", tenant="acme")
CANARY = "canary-7f3a/+9c1e&d5b2"
KEPT = []
"""What the tools of these tests keep of their credential, in this process."""

TOOLS = """
import base64
import threading

from core_credentials_kept import KEPT


def open_shelf(settings):
    return settings


def look(context, *, item, amount=0):
    KEPT.append(context.credential)
    value = context.credential.reveal()
    if item == "raise":
        raise ValueError("the server said no to " + value)
    if item == "os-error":
        raise OSError(5, "no route for " + value)
    if item == "long":
        raise ValueError("x" * 290 + value)
    if item == "slow":
        KEPT[0].wait(30)
        KEPT.append(_try(context.credential))
        KEPT[1].set()
    if item == "header":
        return {"ok": True, "item": base64.b64encode(b"u:" + value.encode()).decode()}
    return {"ok": True, "item": value if item == "echo" else "fine"}


def _try(credential):
    try:
        return credential.reveal()
    except Exception as error:
        return error


put = burn = read_mail = look
"""


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a runtime whose tools have a scope and say their credential in many ways."""
    import sys
    import types

    module = types.ModuleType("core_credentials_kept")
    module.KEPT = KEPT
    monkeypatch.setitem(sys.modules, "core_credentials_kept", module)
    KEPT.clear()
    runtimes = []

    def make(*replies, tracing=False, timeout=5, **settings):
        root = write_bundle(tmp_path / "bundle", list(replies), folder=tmp_path / "shelf")
        (root / "tools.py").write_text(TOOLS)
        for contract in (root / "contracts").glob("*.yaml"):
            text = contract.read_text().replace(
                "timeout_seconds: 5\n", f"timeout_seconds: {timeout}\n"
            )
            contract.write_text(re.sub(r"scopes: .*", "scopes: ['shelf:read']", text))
        runtime = AgentRuntime.open(
            load_bundle(root),
            tracing=tracing,
            settings=replace(Settings.from_env(), **settings),
        )
        runtimes.append(runtime)
        return runtime

    yield make
    for runtime in runtimes:
        runtime.close()


def ask(runtime, session_id="s1"):
    return runtime.invoke(AgentRequest(text="go", session_id=session_id, actor=ANN))


@pytest.fixture
def canary(monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_SHELF_READ", CANARY)


def everywhere(folder):
    """Return the files below `folder` that hold the canary, in any spelling a log would use."""
    spellings = {CANARY, json.dumps(CANARY)[1:-1], CANARY.encode().hex()}
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(s.encode() in path.read_bytes() for s in spellings)
    ]


@pytest.mark.usefixtures("canary")
def test_a_whole_conversation_leaves_no_trace_of_the_credential(opened, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    says = {"echo": True, "header": True, "quiet": True}
    says |= {"raise": False, "os-error": False, "long": False}
    calls = [(tool, item) for tool in ("look", "put") for item in says]
    script = [call(tool, item, call_id=f"{tool}-{item}") for tool, item in calls]
    turns = [[*script[first : first + 4], say("done")] for first in (0, 4, 8)]
    runtime = opened(*turns[0], *turns[1], *turns[2], tracing=True)
    replies = [ask(runtime) for _ in turns]
    runtime.close()
    mlflow.flush_trace_async_logging()
    records = [record for reply in replies for record in reply.calls]
    assert [record.status is CallStatus.EXECUTED for record in records] == [*says.values()] * 2
    assert ["<SECRET>" in str(record) for record in records] == [
        item != "quiet" for item in says
    ] * 2
    assert "canary-7" not in str(replies)
    assert "canary-7" not in caplog.text
    out, err = capfd.readouterr()
    assert "canary-7" not in out + err
    assert everywhere(tmp_path) == []
    assert (tmp_path / "agents.db").exists()
    assert len(mlflow.search_traces(return_type="list")) == 3


@pytest.mark.usefixtures("canary")
def test_the_check_above_would_find_it(opened, tmp_path):
    (tmp_path / "planted").write_text(f"x{CANARY}y")
    assert [path.name for path in everywhere(tmp_path)] == ["planted"]


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize(("tool", "item"), [("look", "quiet"), ("put", "quiet"), ("put", "raise")])
def test_the_audit_says_which_scope_was_lent_from_where_and_never_the_value(opened, tool, item):
    runtime = opened(call(tool, item), say("done"))
    ask(runtime)
    events = {event.kind: event.body for event in AuditLog(runtime.store).events(session_id="s1")}
    assert events["tool_call_decided"]["starts"]["scopes"] == ["shelf:read"]
    assert events["tool_call_finished"]["credentials"] == {"shelf:read": "environment"}
    assert "canary-7" not in json.dumps(events, default=str)


def test_a_scope_without_a_source_lends_nothing_and_the_audit_says_nothing_was(opened):
    runtime = opened(call("look", "quiet"), say("done"))
    ask(runtime)
    events = {event.kind: event.body for event in AuditLog(runtime.store).events(session_id="s1")}
    assert events["tool_call_decided"]["starts"]["scopes"] == ["shelf:read"]
    assert "credentials" not in events["tool_call_finished"]


@pytest.mark.usefixtures("canary")
def test_after_its_call_the_credential_is_empty(opened):
    ask(opened(call("look", "quiet"), say("done")))
    with pytest.raises(Exception, match="has ended"):
        KEPT[0].reveal()


@pytest.mark.usefixtures("canary")
def test_a_tool_past_its_time_limit_loses_the_credential_while_it_still_runs(opened):
    KEPT.extend([threading.Event(), threading.Event()])
    reply = ask(opened(call("look", "slow"), say("done"), timeout=0.2))
    assert reply.calls[0].status is CallStatus.FAILED
    KEPT[0].set()
    assert KEPT[1].wait(30)
    assert "has ended" in str(KEPT[-1])


@pytest.mark.parametrize("tool", ["look", "put"])
def test_a_tool_without_a_configured_source_fails_and_says_what_to_do(opened, tool):
    reply = ask(opened(call(tool, "quiet"), say("done")))
    assert reply.calls[0].status is CallStatus.FAILED
    assert "no credential is configured for scope shelf:read" in reply.calls[0].error


@pytest.mark.parametrize("tool", ["look", "put"])
def test_a_tool_whose_source_is_away_does_not_run(opened, tool, tmp_path):
    path = tmp_path / "credentials.yaml"
    path.write_text(
        "apiVersion: mlflow-agents/v1\ncredentials:\n"
        "  - {scope: 'shelf:read', provider: file, path: /nowhere/secret}\n"
    )
    runtime = opened(call(tool, "quiet"), say("done"), credentials=str(path))
    reply = ask(runtime)
    assert reply.calls[0].status is CallStatus.FAILED
    assert "cannot be read" in reply.calls[0].error
    assert KEPT == []
    finished = AuditLog(runtime.store).events()[-2]
    assert finished.body["status"] == "failed"


def test_a_broken_provider_is_a_no_that_keeps_its_text_to_itself(opened, monkeypatch):
    from mlflow_agent_plugin.trust.credentials import EnvironmentProvider

    def broken(self, request):
        raise RuntimeError(CANARY)

    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_SHELF_READ", "x" * 8)
    monkeypatch.setattr(EnvironmentProvider, "issue", broken)
    reply = ask(opened(call("look", "quiet"), say("done")))
    assert reply.calls[0].status is CallStatus.FAILED
    assert "canary" not in str(reply)


def test_what_was_issued_is_revoked_even_if_the_tool_fails(opened, monkeypatch):
    from mlflow_agent_plugin.trust.credentials import EnvironmentProvider, IssuedSecret

    revoked = []

    def issue(self, request):
        return IssuedSecret({"value": CANARY}, revoke=lambda: revoked.append(request.key))

    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_SHELF_READ", "x" * 8)
    monkeypatch.setattr(EnvironmentProvider, "issue", issue)
    ask(opened(call("look", "raise"), call("look", "quiet", call_id="c2"), say("done")))
    assert revoked == ["s1:c1", "s1:c2"]


def test_a_failed_revocation_is_logged_and_changes_nothing(opened, monkeypatch, caplog):
    from mlflow_agent_plugin.trust.credentials import EnvironmentProvider, IssuedSecret

    def refuse():
        raise RuntimeError(CANARY)

    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_SHELF_READ", "x" * 8)
    monkeypatch.setattr(
        EnvironmentProvider, "issue", lambda *_: IssuedSecret({"value": CANARY}, revoke=refuse)
    )
    reply = ask(opened(call("look", "quiet"), say("done")))
    assert reply.calls[0].status is CallStatus.EXECUTED
    assert "could not be revoked (RuntimeError)" in caplog.text
    assert "canary" not in caplog.text
