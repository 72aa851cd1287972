"""Webhooks and Slack's messages: real receivers, a real registry, nothing lost and nothing twice."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.registry_world import World
from helpers.rollout_world import STRICT
from mlflow.webhooks.delivery import _generate_hmac_signature

from mlflow_agent_plugin.entities import Actor, ToolCall
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.interaction.notices.messages import escaped
from mlflow_agent_plugin.interaction.notices.notifier import Notifier
from mlflow_agent_plugin.interaction.notices.outbox import (
    CLAIM_SECONDS,
    MAX_ATTEMPTS,
    Delivery,
    Outbox,
)
from mlflow_agent_plugin.interaction.notices.targets import Targets, read_targets
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import ApprovalQueue

SECRET = "signing-secret-0815"


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets, and answers as it is told."""

    def __init__(self):
        self.got = []
        self.answers = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/in"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.got.append((dict(self.headers), body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status is None:  # hang up without an answer
            self.connection.close()
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Clock:
    def __init__(self):
        self.now = datetime(2030, 1, 1, tzinfo=timezone.utc)

    def __call__(self):
        return self.now


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(store_uri):
    with Store.open(store_uri) as opened:
        yield opened


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def webhook(url, **more):
    return {"name": "hook", "kind": "webhook", "url": url, "secret_variable": "HOOK_SECRET",
            "events": ["approval_waiting"], "tenants": ["home"], **more}  # fmt: skip


def targets(*found, **more):
    return Targets.model_validate(
        {"apiVersion": "mlflow-agents/v1", "targets": list(found), **more}
    )


def wait_for_answer(store, clock, call_id="c1", tenant="home", reason="burning is final"):
    """Let a call wait for an answer; return the approval."""
    return ApprovalQueue(store, clock=clock).request(
        ToolCall(call_id=call_id, tool="burn", arguments={"item": "secret letter"},
                 session_id=f"s-{call_id}"),
        agent="shelf", agent_digest="sha256:a", policy_digest="sha256:p",
        actor=Actor("ann", tenant, verified=True), role="warden", reason=reason,
        ttl_seconds=86_400 * 9,
    )  # fmt: skip


def states(store):
    return [(row.state.value, row.attempts) for row in Outbox(store).list()]


def test_a_waiting_call_is_told_once_signed_as_mlflow_signs_and_without_its_arguments(
    store, clock, receiver
):
    waiting = wait_for_answer(store, clock)
    notifiers = [
        Notifier(
            store, targets(webhook(receiver.url), console_url="https://x.example"), clock=clock
        )
        for _ in range(2)
    ]
    assert [notifier.look() for notifier in notifiers] == [1, 0]
    assert notifiers[0].look() == 0
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["event"], told["id"]) == ("approval_waiting", waiting.approval_id)
    assert told["data"]["tool"] == "burn"
    assert told["url"].startswith("https://x.example/agents/approvals")
    assert "secret letter" not in body
    assert headers["X-MLflow-Signature"] == _generate_hmac_signature(
        SECRET, headers["X-MLflow-Delivery-Id"], headers["X-MLflow-Timestamp"], body
    )


def test_another_tenants_call_is_not_told(store, clock, receiver):
    wait_for_answer(store, clock, tenant="elsewhere")
    for tenants, told in (([], 0), (["home"], 0), (["*"], 1)):
        found = targets(webhook(receiver.url, name=f"t{told}{len(tenants)}", tenants=tenants))
        assert Notifier(store, found, clock=clock).look() == told


def test_what_was_refused_is_tried_again_later_with_the_same_id(store, clock, receiver):
    wait_for_answer(store, clock)
    notifier = Notifier(store, targets(webhook(receiver.url)), clock=clock)
    receiver.answers = [500, 302]
    assert notifier.look() == 0
    assert notifier.look() == 0  # not yet
    clock.now += timedelta(seconds=6)
    assert notifier.look() == 0  # a redirect is not followed
    clock.now += timedelta(seconds=11)
    assert notifier.look() == 1
    assert len({headers["X-MLflow-Delivery-Id"] for headers, _ in receiver.got}) == 1
    assert states(store) == [("sent", 3)]


def test_what_may_have_arrived_is_not_sent_twice_by_itself(store, clock, receiver):
    wait_for_answer(store, clock)
    careful = Notifier(store, targets(webhook(receiver.url)), clock=clock)
    receiver.answers = [None]
    assert careful.look() == 0
    clock.now += timedelta(hours=2)
    assert careful.look() == 0
    assert len(receiver.got) == 1
    assert states(store) == [("unsure", 1)]
    again = targets(webhook(receiver.url, repeat_when_unsure=True))
    assert Notifier(store, again, clock=clock).look() == 1
    assert len(receiver.got) == 2


def test_a_sender_that_died_leaves_it_unsure(store, clock, receiver):
    wait_for_answer(store, clock)
    notifier = Notifier(store, targets(webhook(receiver.url)), clock=clock)
    notifier._note(list(notifier._notices()))
    assert notifier.outbox.claim("hook", repeat=False) is not None  # and never comes back
    assert notifier.look() == 0
    clock.now += timedelta(seconds=CLAIM_SECONDS + 1)
    assert notifier.look() == 0
    assert states(store) == [("unsure", 1)]
    assert receiver.got == []


def test_one_that_is_away_for_long_is_given_up_and_holds_no_other_back(store, clock, receiver):
    wait_for_answer(store, clock)
    away = webhook("http://127.0.0.1:9/in", name="away")
    notifier = Notifier(store, targets(away, webhook(receiver.url)), clock=clock)
    assert notifier.look() == 1
    for _ in range(MAX_ATTEMPTS):
        clock.now += timedelta(hours=1, seconds=1)
        notifier.look()
    row = next(row for row in notifier.outbox.list() if row.target == "away")
    assert (row.state, row.attempts) == (Delivery.GIVEN_UP, MAX_ATTEMPTS)
    assert len(receiver.got) == 1


def test_senders_at_once_send_each_message_once(store_uri, receiver, clock):
    with Store.open(store_uri) as store:
        for number in range(20):
            wait_for_answer(store, clock, call_id=f"c{number}")
        found = targets(webhook(receiver.url))
        stores = [Store.open(store_uri) for _ in range(4)]
        threads = [
            threading.Thread(target=Notifier(each, found, clock=clock).look) for each in stores
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in stores:
            each.close()
        ids = [json.loads(body)["id"] for _, body in receiver.got]
        assert len(ids) == len(set(ids)) == 20


def test_slack_gets_text_that_cannot_become_a_link_or_a_mention(
    store, clock, receiver, monkeypatch
):
    monkeypatch.setenv("SLACK_URL", receiver.url)
    wait_for_answer(store, clock, reason="<!channel> *see* <https://evil|here> & @everyone")
    slack = {"name": "team", "kind": "slack", "url_variable": "SLACK_URL", "tenants": ["*"]}
    found = targets(slack, console_url="https://x.example")
    assert Notifier(store, found, clock=clock).look() == 1
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert told["text"] == "shelf waits: may it call burn?"
    text = told["blocks"][0]["text"]["text"]
    assert "&lt;!channel&gt;" in text
    assert "<!channel>" not in text
    assert "<https://evil" not in text
    assert "|Open the console>" in text
    assert "X-MLflow-Signature" not in headers
    assert escaped("*b*\n_i_").count("\u200b") == 4


def test_a_promotion_request_is_told_where_the_registry_is(tmp_path, monkeypatch, receiver, clock):
    from mlflow_agent_plugin.registry import request_promotion

    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    found = targets(webhook(receiver.url, events=["promotion_requested"]))
    with Store.open() as store:
        assert Notifier(store, found, clock=clock).look() == 0  # no registry here
        uri = f"agents+sqlite:///{tmp_path}/mlflow.db"
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
        world = World(tmp_path, uri)
        version = world.register("one", STRICT)
        request_promotion(
            world.NAME, version, to="@champion", comment="please", client=world.client
        )
        notifier = Notifier(store, found, clock=clock)
        assert notifier.look() == 1
        assert notifier.look() == 0
    data = json.loads(receiver.got[0][1])["data"]
    assert (data["model"], data["version"], data["slot"]) == ("shelf", 1, "@champion")
    assert (data["requested_by"], data["comment"], data["verified"]) == ("bob", "please", False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": None}, "either url or url_variable"),
        ({"url_variable": "X"}, "either url or url_variable"),
        ({"secret_variable": None}, "it is signed"),
        ({"kind": "slack"}, "not signed"),
        ({"events": []}, "at least 1"),
        ({"odd": 1}, "odd"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(tmp_path, change, problem):
    import yaml

    target = {k: v for k, v in {**webhook("https://x"), **change}.items() if v is not None}
    path = tmp_path / "notices.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "mlflow-agents/v1", "targets": [target]}))
    with pytest.raises(ConfigError, match=problem):
        read_targets(path)
    path.write_text(
        yaml.safe_dump({"apiVersion": "mlflow-agents/v1", "targets": [webhook("https://x")] * 2})
    )
    with pytest.raises(ConfigError, match="same name"):
        read_targets(path)


def test_nothing_is_sent_without_the_secret_or_in_the_clear(store, clock, receiver, monkeypatch):
    wait_for_answer(store, clock)
    plain = Notifier(store, targets(webhook("http://example.com/in")), clock=clock)
    assert plain.look() == 0
    monkeypatch.delenv("HOOK_SECRET")
    assert Notifier(store, targets(webhook(receiver.url)), clock=clock).look() == 0
    assert receiver.got == []
    assert states(store) == [("waiting", 0)]


def test_the_command_tells_and_lists(tmp_path, cli, receiver):
    import yaml

    from mlflow_agent_plugin.entities import utc_now

    path = tmp_path / "notices.yaml"
    found = [webhook(receiver.url)]
    path.write_text(yaml.safe_dump({"apiVersion": "mlflow-agents/v1", "targets": found}))
    with Store.open() as store:
        wait_for_answer(store, utc_now)
    assert cli("notices", "run", "--targets", path, "--once", "--json").json == {"arrived": 1}
    assert cli("notices", "list", "--json").json[0]["state"] == "sent"
