"""The policy engine over HTTP: nothing but a recorded allow is an allow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import requests
from helpers.agents_server import free_port
from helpers.shelf_agent import say, write_bundle

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.interaction.decision_point.app import MAX_BODY_BYTES, create_app
from mlflow_agent_plugin.interaction.decision_point.service import DecisionService
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import (
    AuditKind,
    AuditLog,
    CedarPolicyEngine,
    KeyStore,
    SigningKey,
    issue_token,
    verify_audit,
)

GATE = Actor("gate-1", roles=frozenset({"policy-enforcement"}))


def token(actor, key=None):
    return issue_token(actor, key or KeyStore().signing_key(), 600)


def question(**changes):
    return {
        "tool": "look", "arguments": {"item": "lamp"}, "session_id": "s1", "call_id": "c1",
        "session": {"calls": 0, "turn": 1, "untrusted_seen": False},
        "provenance": {"item": "user"}, **changes,
    }  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(write_bundle(tmp_path / "shelf", [say("x")], folder=tmp_path / "data"))


@pytest.fixture
def store():
    with Store.open("sqlite://") as store:
        yield store


@pytest.fixture
def client(bundle, store):
    from fastapi.testclient import TestClient

    service = DecisionService(
        bundle=bundle, engine=CedarPolicyEngine.from_bundle(bundle), audit=AuditLog(store),
        keys=KeyStore(), environment="production",
    )  # fmt: skip
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {token(GATE)}"
        yield client


def ask(client, path="/v1/decide", **changes):
    return client.post(path, json=question(**changes))


@pytest.mark.parametrize(
    ("changes", "decision", "policies"),
    [
        ({}, "allow", ["reads"]),
        ({"tool": "put", "arguments": {"item": "gold"}}, "deny", ["no-gold"]),
        ({"tool": "burn"}, "needs_approval", ["burning-needs-a-warden"]),
        ({"tool": "steal"}, "deny", []),
        ({"arguments": {"item": 5}}, "deny", []),
        ({"arguments": {}}, "deny", []),
        ({"arguments": {"item": "x", "more": 1}}, "deny", []),
        ({"provenance": {}}, "deny", []),
        ({"provenance": {"item": "me"}}, "deny", []),
    ],
    ids=["allow", "hard", "approval", "tool", "type", "missing", "extra", "no origin", "origin"],
)
def test_every_decision_names_its_policies_and_is_on_record(
    client, store, bundle, changes, decision, policies
):
    answer = ask(client, **changes)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["decision"], found["policy_ids"]) == (decision, policies)
    assert found["agent_digest"] == bundle.digest.value
    assert bool(found["errors"]) == (decision == "deny" and not policies)
    (event,) = AuditLog(store).events(kind=AuditKind.TOOL_CALL_DECIDED)
    assert event.event_id == found["decision_id"]
    assert event.body["decision"]["value"] == decision
    assert (event.body["decision_point"], event.body["caller"]["user"]) == ("http", "gate-1")
    assert event.body["session"]["environment"] == "production"
    assert verify_audit(store).ok


def test_the_subject_is_who_his_own_token_says_and_else_nobody(client, store):
    eve = Actor("eve", roles=frozenset({"warden"}))
    assert ask(client, actor_token=token(eve)).status_code == 200
    assert ask(client).status_code == 200
    events = AuditLog(store).events(kind=AuditKind.TOOL_CALL_DECIDED)
    assert [(e.actor, e.body["actor"]["verified"]) for e in events] == [
        ("eve", True), ("anonymous", False),
    ]  # fmt: skip
    other = ask(client, actor_token=token(Actor("eve", "other")))
    assert (other.status_code, other.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401), ("", 401), ("Basic YTpi", 401), ("Bearer", 401), ("Bearer x.y.z", 401),
    ],
)  # fmt: skip
def test_without_a_token_nobody_is_answered(client, store, header, status):
    if header is None:
        del client.headers["authorization"]
    else:
        client.headers["authorization"] = header
    answer = ask(client)
    assert answer.status_code == status
    assert answer.headers["www-authenticate"] == "Bearer"
    assert AuditLog(store).events() == []


def test_a_strangers_or_a_plain_users_token_is_not_enough(client):
    client.headers["authorization"] = f"Bearer {token(GATE, SigningKey.generate())}"
    assert ask(client).status_code == 401
    client.headers["authorization"] = f"Bearer {token(Actor('eve'))}"
    assert (ask(client).status_code, ask(client, "/v1/explain").status_code) == (403, 403)
    client.headers["authorization"] = f"Bearer {token(GATE)}"
    assert ask(client, actor_token="x.y.z").status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"\xff", b'{"tool": "look"}', b'{"a": NaN}',
        json.dumps(question(approved=True)).encode(),
        json.dumps(question(session={"calls": 0, "turn": 1})).encode(),
        json.dumps(question(session={"calls": 0, "turn": 1, "untrusted_seen": False,
                                     "environment": "development"})).encode(),
        json.dumps(question(session={"calls": -1, "turn": 1, "untrusted_seen": False})).encode(),
        json.dumps(question(tool="")).encode(),
        json.dumps(question()).replace('"item": "lamp"', '"item": "lamp", "item": "x"').encode(),
        b'{"arguments": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
)  # fmt: skip
def test_a_malformed_question_is_one_line_and_no_decision(client, store, body):
    answer = client.post("/v1/decide", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text
    assert AuditLog(store).events() == []


def test_a_question_that_is_too_large_is_not_read_to_its_end(client):
    body = json.dumps(question(arguments={"item": "x" * MAX_BODY_BYTES})).encode()
    assert client.post("/v1/decide", content=body).status_code == 413
    endless = (b" " * 65536 for _ in range(1000))
    assert client.post("/v1/decide", content=endless).status_code == 413


def test_a_decision_that_cannot_be_recorded_is_none(client, monkeypatch):
    def deaf(*_, **__):
        raise StoreError("the disk is full")

    monkeypatch.setattr(AuditLog, "append", deaf)
    answer = ask(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_recorded")


def test_a_defect_is_an_error_without_details_and_never_an_allow(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(CedarPolicyEngine, "decide", broken)
    answer = ask(client)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_an_explanation_says_what_would_change_the_answer_and_decides_nothing(client, store):
    found = ask(client, "/v1/explain", tool="burn").json()
    assert found["decision"]["value"] == "needs_approval"
    assert {"if a warden approves this call"} <= {c["change"] for c in found["changes"]}
    assert AuditLog(store).events() == []


def test_anybody_may_see_which_agent_it_decides_for(client, bundle):
    del client.headers["authorization"]
    assert client.get("/health").json()["agent_digest"] == bundle.digest.value
    assert client.get("/docs").status_code == 404


@pytest.mark.integration
def test_as_a_process_it_answers_and_records_until_interrupted(tmp_path, bundle):
    port, uri = free_port(), f"sqlite:///{tmp_path}/agents.db"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow_agent_plugin.interaction.cli", "policy", "serve",
            str(bundle.root), "--port", str(port), "--store", uri,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "decisions at http://127.0.0.1" in process.stdout.readline()
        session = requests.Session()
        retry = requests.adapters.HTTPAdapter(
            max_retries=requests.adapters.Retry(connect=20, backoff_factor=0.1)
        )
        session.mount("http://", retry)
        answer = session.post(
            f"http://127.0.0.1:{port}/v1/decide", json=question(),
            headers={"authorization": f"Bearer {token(GATE)}"}, timeout=30,
        )  # fmt: skip
        assert answer.json()["decision"] == "allow"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    with Store.open(uri) as store:
        (event,) = AuditLog(store).events()
        assert event.event_id == answer.json()["decision_id"]
        assert verify_audit(store).ok
