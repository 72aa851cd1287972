"""What happens to a gated model reaches a real receiver, signed as MLflow signs its webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.fernet import Fernet
from helpers.servers import Server, remote_world
from mlflow.exceptions import MlflowException

from mlflow_agent_plugin.registry import emergency_promote, promote, reject, retire, rollback

pytestmark = pytest.mark.integration


class Receiver:
    """An HTTP server that keeps what it is sent if MLflow's signature fits its secret."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self.kept: queue.Queue = queue.Queue()
        self.forged: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signed = b".".join(
                    [
                        self.headers["X-MLflow-Delivery-Id"].encode(),
                        self.headers["X-MLflow-Timestamp"].encode(),
                        body,
                    ]
                )
                digest = hmac.new(receiver.secret.encode(), signed, hashlib.sha256).digest()
                expected = f"v1,{base64.b64encode(digest).decode()}"
                if hmac.compare_digest(expected, self.headers["X-MLflow-Signature"]):
                    receiver.kept.put(json.loads(body))
                else:
                    receiver.forged.append(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def until(self, event: str, seen: list[dict]) -> dict[str, Any]:
        """Return the next of the registry's events with this name; keep all that came before it."""
        while True:
            delivered = self.kept.get(timeout=60)
            seen.append(delivered)
            if delivered["data"].get("key") == "agent.event":
                body = json.loads(delivered["data"]["value"])
                if body["event"] == event:
                    assert delivered["data"]["version"] == str(body["version"])
                    return body


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def server(tmp_path):
    found = Server(
        tmp_path,
        env={
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        },
    )
    yield found
    found.stop()


def test_each_step_is_told_once_it_is_committed_and_a_refused_one_is_not(
    tmp_path, server, receiver, monkeypatch
):
    world = remote_world(tmp_path, server, monkeypatch)
    world.client.create_webhook(
        "all", receiver.url,
        ["model_version_tag.set", "model_version_alias.created", "model_version.created"],
        secret=receiver.secret,
    )  # fmt: skip
    seen: list[dict] = []
    one = world.register("one")
    with pytest.raises(MlflowException, match="approvals"):
        promote("shelf", one, to="Production", client=world.client)
    with pytest.raises(MlflowException, match="registry's own"):
        world.client.set_model_version_tag("shelf", str(one), "agent.event", "{}")
    world.ready(one)
    asked = receiver.until("promotion_requested", seen)
    assert (asked["version"], asked["slot"], asked["verified"]) == (one, "Production", False)
    answered = receiver.until("promotion_answered", seen)
    assert (answered["answer"], answered["by"]) == ("approved", "alice")
    promote("shelf", one, to="Production", client=world.client)
    moved = receiver.until("version_promoted", seen)
    assert (moved["version"], moved["how"], moved["slot"]) == (one, "promoted", "Production")
    assert moved["content_digest"] == world.client.get_model_version("shelf", "1").tags[
        "agent.content"
    ]  # fmt: skip

    two = world.register("two")
    world.ready(two, "@champion")
    reject_reason = "not this one"
    reject("shelf", two, to="@champion", reason=reject_reason, by="alice", client=world.client)
    while (said := receiver.until("promotion_answered", seen))["answer"] != "rejected":
        pass
    assert said["reason"] == reject_reason
    emergency_promote("shelf", two, to="Production", reason="outage", by="eve", client=world.client)
    assert receiver.until("unsafe_override", seen)["reason"] == "outage"
    rollback("shelf", to="Production", reason="it is over", by="alice", client=world.client)
    back = receiver.until("version_rolled_back", seen)
    assert (back["version"], back["was"], back["by"]) == (one, two, "alice")
    retire("shelf", to="Production", reason="done with it", by="alice", client=world.client)
    assert receiver.until("slot_emptied", seen)["version"] == one

    told = [
        json.loads(item["data"]["value"])
        for item in seen
        if item["data"].get("key") == "agent.event"
    ]
    assert [item["event"] for item in told].count("promotion_requested") == 2
    # the refused promotion was told to nobody, nor was the client's own tag
    assert {item["how"] for item in told if item["event"] == "version_promoted"} <= {
        "promoted", "emergency",
    }  # fmt: skip
    assert all("event" in item for item in told)
    assert {f"{item['entity']}.{item['action']}" for item in seen} == {
        "model_version_tag.set", "model_version.created",
    }  # fmt: skip
    commands = [item["data"]["key"] for item in seen if item["entity"] == "model_version_tag"]
    assert {"agent.request", "agent.approve", "agent.reject", "agent.emergency"} <= set(commands)
    assert receiver.forged == []


def test_without_a_server_nothing_is_sent_and_the_tag_tells_what_happened_last(world, monkeypatch):
    from mlflow.webhooks import delivery

    sent: list[object] = []
    monkeypatch.setattr(delivery, "deliver_webhook", lambda **kwargs: sent.append(kwargs))
    world.promoted("one")
    event = json.loads(world.client.get_model_version("shelf", "1").tags["agent.event"])
    assert (event["event"], event["slot"], event["by"]) == ("version_promoted", "Production", "bob")
    assert sent == []
