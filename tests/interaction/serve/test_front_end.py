"""The front end's HTTP, in this process, on a shelf agent with a scripted model."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from helpers.shelf_agent import call, say, write_bundle
from starlette.testclient import TestClient

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import Actor, utc_now
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust import KeyStore, issue_token


@pytest.fixture
def keys(tmp_path):
    """Give a file of API keys and the keys by actor."""
    made, entries = {}, []
    for actor in ("ann@home", "walt@home:warden", "eve@elsewhere:warden", "old@home"):
        key, digest = make_key()
        made[actor.partition("@")[0]] = key
        expires = utc_now() + timedelta(days=-1 if actor.startswith("old") else 1)
        entries.append({"sha256": digest, "actor": actor, "expires": expires.isoformat()})
    path = tmp_path / "keys.yaml"
    path.write_text(json.dumps({"keys": entries}))
    made["file"] = str(path)
    return made


@pytest.fixture
def front(tmp_path, keys):
    """Return a function that opens a front end before agents with the given replies."""
    opened = []

    def make(*replies, **settings):
        agents = {}
        for name in settings.pop("names", ["shelf"]):
            root = write_bundle(tmp_path / name, list(replies), folder=tmp_path / "things")
            agents[name] = AgentRuntime.open(load_bundle(root), tracing=False)
        chosen = ServeSettings(
            agents=dict.fromkeys(agents, "models:/x/1"), keys=keys["file"], **settings
        )
        client = TestClient(make_app(chosen, ServedAgents(agents, Settings.from_env())))
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def ask(client, key, text="hi", path="/v1/responses", **more):
    return client.post(path, json={"input": text, **more}, headers=bearer(key))


CALLS = (("POST", "/v1/responses"), ("POST", "/v1/chat/completions"), ("POST", "/invocations"),
         ("GET", "/v1/models"), ("GET", "/v1/approvals"), ("POST", "/v1/feedback"),
         ("POST", "/v1/approvals/apr-1/approve"), ("POST", "/v1/approvals/apr-1/reject"))  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_nobody_is_answered_without_a_valid_credential(front, keys, method, path):
    client = front(say("no"))
    for header in (None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer mak_guess", "Bearer a.b.c",
                   f"Bearer {keys['old']}", f"Bearer {'x' * 20_000}", "Bearer mak_\u00e9"):  # fmt: skip
        headers = {} if header is None else {"Authorization": header.encode()}
        answer = client.request(method, path, headers=headers, json={"input": "hi"})
        assert answer.status_code == 401, (header, answer.text)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"


def test_an_api_key_is_its_verified_actor(front, keys, tmp_path):
    client = front(say("welcome"))
    answer = ask(client, keys["ann"]).json()
    assert answer["output"][0]["content"][0]["text"] == "welcome"
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditLog

    with Store.open() as store:
        events = AuditLog(store).events(kind="request_received")
    assert events[0].actor == "ann"
    assert events[0].tenant == "home"
    assert events[0].body["actor"]["verified"] is True


def test_an_actor_token_of_a_trusted_key_is_believed_until_it_expires(front):
    client = front(say("hello"), say("again"))
    key = KeyStore(Settings.from_env().key_dir).signing_key()
    actor = Actor("dora", tenant="home")
    assert ask(client, issue_token(actor, key, 60)).status_code == 200
    stale = issue_token(actor, key, 60, clock=lambda: utc_now() - timedelta(hours=1))
    assert ask(client, stale).status_code == 401


def test_the_body_has_no_say_about_identity(front, keys):
    client = front(say("no"))
    answer = ask(client, keys["ann"], custom_inputs={"actor_token": "x"})
    assert answer.status_code == 401
    assert "Authorization header" in answer.json()["error"]["message"]


def test_a_removed_key_and_an_unreadable_file_let_nobody_in(front, keys, tmp_path):
    client = front(say("one"), say("two"))
    assert ask(client, keys["ann"]).status_code == 200
    path = tmp_path / "keys.yaml"
    path.write_text('{"keys": []}')
    assert ask(client, keys["ann"]).status_code == 401
    path.write_text("{")
    assert ask(client, keys["ann"]).status_code == 503
    path.unlink()
    assert ask(client, keys["ann"]).status_code == 503


def test_a_conversation_goes_on_by_its_session_and_only_for_its_user(front, keys):
    client = front(say("one"), say("two"))
    first = ask(client, keys["ann"]).json()
    session = first["custom_outputs"]["session_id"]
    theirs = ask(client, keys["eve"], custom_inputs={"session_id": session})
    assert theirs.status_code == 404
    second = ask(client, keys["ann"], custom_inputs={"session_id": session}).json()
    assert second["output"][0]["content"][0]["text"] == "two"


def test_a_call_waits_is_approved_over_http_and_runs_once(front, keys, tmp_path):
    client = front(call("burn", "letter"), say("burnt"))
    waiting = ask(client, keys["ann"], "burn it").json()
    assert waiting["custom_outputs"]["outcome"] == "waiting_approval"
    approval = waiting["custom_outputs"]["approvals"][0]["approval_id"]
    assert client.get("/v1/approvals", headers=bearer(keys["ann"])).json() == {"data": []}
    assert client.get("/v1/approvals", headers=bearer(keys["eve"])).json() == {"data": []}
    seen = client.get("/v1/approvals", headers=bearer(keys["walt"])).json()["data"]
    assert [item["approval_id"] for item in seen] == [approval]
    address = f"/v1/approvals/{approval}/approve"
    assert client.post(address, headers=bearer(keys["ann"])).status_code == 409
    assert client.post(address, headers=bearer(keys["eve"])).status_code == 409
    assert client.post(address, json={"x": 1}, headers=bearer(keys["walt"])).status_code == 400
    assert client.post(address, headers=bearer(keys["walt"])).json()["state"] == "approved"
    done = client.post(
        "/v1/responses",
        json={
            "input": [{"type": "mcp_approval_response", "approval_request_id": approval,
                       "approve": True}],
            "custom_inputs": {"session_id": waiting["custom_outputs"]["session_id"]},
        },
        headers=bearer(keys["ann"]),
    ).json()  # fmt: skip
    assert done["output"][0]["content"][0]["text"] == "burnt"
    assert (tmp_path / "things" / "effects.txt").read_text().count("letter") == 1


def test_responses_stream_as_events_and_end_with_the_response(front, keys):
    client = front(say("a longer answer"))
    with client.stream(
        "POST", "/v1/responses", json={"input": "hi", "stream": True}, headers=bearer(keys["ann"])
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names[-1] == "response.completed"
    last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["response"]["output"][0]["content"][0]["text"] == "a longer answer"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_a_stream_that_may_not_begin_has_the_status_of_its_refusal(front, keys, path, monkeypatch):
    from mlflow_agent_plugin.errors import SessionBusyError

    client = front(say("no"))

    def busy(self, request, *, deltas=True):
        raise SessionBusyError("another turn is running")
        yield

    monkeypatch.setattr(AgentRuntime, "stream", busy)
    body = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"input": "hi"}
    answer = client.post(path, json={**body, "stream": True}, headers=bearer(keys["ann"]))
    assert answer.status_code == 409
    assert "another turn" in answer.json()["error"]["message"]


def test_chat_completions_answer_and_stream_in_their_own_format(front, keys):
    client = front(say("one"), say("two"))
    body = {"model": "shelf", "messages": [{"role": "system", "content": "x"},
                                           {"role": "user", "content": "hi"}]}  # fmt: skip
    first = client.post("/v1/chat/completions", json=body, headers=bearer(keys["ann"])).json()
    assert first["choices"][0]["message"] == {"role": "assistant", "content": "one"}
    assert first["usage"]["total_tokens"] >= 0
    body |= {"stream": True, "metadata": {"session_id": first["session_id"]}}
    answer = client.post("/v1/chat/completions", json=body, headers=bearer(keys["ann"]))
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == "two"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {}), ("/v1/responses", {"input": ""}), ("/v1/responses", {"input": 3}),
        ("/v1/responses", []), ("/v1/responses", {"input": "hi", "odd": 1}),
        ("/v1/responses", {"input": "hi", "model": "nobody"}),
        ("/v1/responses", {"input": "hi", "model": 7}),
        ("/v1/chat/completions", {}), ("/v1/chat/completions", []),
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "odd": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": None}]}),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line_that_names_the_field(front, keys, path, body):
    answer = front(say("no")).post(path, json=body, headers=bearer(keys["ann"]))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


def test_what_is_no_json_or_too_long_is_refused(front, keys):
    client = front(say("no"), max_body_bytes=2048)
    for body, status in ((b"{", 400), (b"[" * 2000, 400), (b"\xff\xfe", 400), (b"x" * 3000, 413)):
        answer = client.post("/v1/responses", content=body, headers=bearer(keys["ann"]))
        assert answer.status_code == status, body[:10]


def test_several_agents_are_picked_by_model(front, keys):
    client = front(say("yes"), names=["shelf", "other"])
    listed = client.get("/v1/models", headers=bearer(keys["ann"])).json()["data"]
    assert [item["id"] for item in listed] == ["shelf", "other"]
    assert ask(client, keys["ann"]).status_code == 400
    assert ask(client, keys["ann"], model="other").status_code == 200


def test_an_answer_that_takes_too_long_is_a_timeout_and_a_full_worker_says_when(
    front, keys, monkeypatch
):
    from mlflow_agent_plugin.interaction.serve import turns

    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    client = front(say("slow"), timeout_seconds=0.5, max_concurrent=1)
    free = threading.Event()
    started = threading.Event()

    def held(self, request):
        started.set()
        free.wait(30)
        raise RuntimeError("never mind")

    monkeypatch.setattr(AgentRuntime, "invoke", held)
    try:
        slow = ask(client, keys["ann"])
        assert slow.status_code == 504
        assert started.is_set()
        full = ask(client, keys["walt"])
        assert full.status_code == 503
        assert int(full.headers["Retry-After"]) >= 1
    finally:
        free.set()


def test_an_inner_failure_tells_the_client_nothing_about_it(front, keys, monkeypatch):
    client = front(say("x"))
    monkeypatch.setattr(
        AgentRuntime, "invoke", lambda *_: (_ for _ in ()).throw(ValueError("secret path /etc"))
    )
    answer = ask(client, keys["ann"])
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_health_readiness_and_metrics_need_no_credential_and_name_nobody(front, keys):
    client = front(say("x"))
    assert ask(client, keys["ann"]).status_code == 200
    assert client.get("/health").text == "OK"
    assert client.get("/ready").text == "ready"
    text = client.get("/metrics").text
    assert 'mlflow_agents_http_requests_total{route="/v1/responses",status="200"}' in text
    assert "ann" not in text.replace("annot", "")


def test_readiness_fails_when_the_store_is_away(front, monkeypatch):
    client = front(say("x"))
    monkeypatch.setattr(ServedAgents, "check", lambda self: (_ for _ in ()).throw(OSError("gone")))
    assert client.get("/ready").status_code == 503
