"""The front end over gRPC: the same answers, refusals and limits as over HTTP, on a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from helpers.cut_link import CutLink
from helpers.issuer import Issuer
from helpers.shelf_agent import call, say, write_bundle
from starlette.testclient import TestClient

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.interaction.grpc import agents_pb2 as pb
from mlflow_agent_plugin.interaction.grpc import agents_pb2_grpc as services
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import OidcSettings, ServeSettings
from mlflow_agent_plugin.package import load_bundle

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
CODE = grpc.StatusCode


class Both:
    """A front end with both protocols, and clients of each."""

    def __init__(self, tmp_path, replies, *, edit=None, **settings):
        root = write_bundle(tmp_path / "shelf", replies, folder=tmp_path / "things")
        if edit is not None:
            edit(root)
        self.keys, entries = {}, []
        for actor in ("ann@home", "walt@home:warden", "eve@elsewhere:warden"):
            key, digest = make_key()
            entries.append({"sha256": digest, "actor": actor})
            self.keys[actor.partition("@")[0]] = key
        (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
        runtime = AgentRuntime.open(load_bundle(root), tracing=False, version="7")
        chosen = ServeSettings(
            agents={"shelf": "x"}, keys=str(tmp_path / "keys.yaml"), follow_seconds=0,
            grpc_address="127.0.0.1:0", shutdown_seconds=20, **settings,
        )  # fmt: skip
        app = make_app(chosen, ServedAgents({"shelf": runtime}, Settings.from_env()))
        self.http = TestClient(app)
        self.http.__enter__()
        self.open = True
        front = app.state.front_end
        self.channel = grpc.insecure_channel(f"127.0.0.1:{front.grpc_port}")
        self.stub = services.AgentsStub(self.channel)

    def who(self, name):
        return (("authorization", f"Bearer {self.keys[name]}"),)

    def ask(self, text="hi", who="ann", **more):
        request = pb.RespondRequest(input=text, **more)
        return self.stub.Respond(request, metadata=self.who(who), timeout=60)

    def end(self):
        if self.open:
            self.open = False
            self.http.__exit__(None, None, None)

    def close(self):
        self.channel.close()
        self.end()


@pytest.fixture
def both(tmp_path):
    started = []

    def start(*replies, **settings):
        started.append(Both(tmp_path, list(replies), **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


def refused(call, code):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    assert raised.value.code() is code, raised.value.details()
    assert "Traceback" not in raised.value.details()
    return raised.value


def test_a_turn_answers_as_over_http_and_a_conversation_goes_on_by_either_way(both):
    front = both(say("one"), say("two"), say("three"))
    first = front.ask()
    assert (first.text, first.outcome, first.version) == ("one", "answered", "7")
    whole = json.loads(first.response_json)
    assert whole["output"][0]["content"][0]["text"] == "one"
    second = front.http.post(
        "/v1/responses",
        json={"input": "hi", "custom_inputs": {"session_id": first.session_id}},
        headers={"Authorization": f"Bearer {front.keys['ann']}"},
    ).json()
    assert second["output"][0]["content"][0]["text"] == "two"
    assert front.ask(session_id=first.session_id).text == "three"


def test_an_answer_streams_in_pieces_and_ends_with_the_whole_reply(both):
    front = both(say("a longer answer"))
    request = pb.RespondRequest(input="hi")
    events = list(front.stub.RespondStream(request, metadata=front.who("ann"), timeout=60))
    assert events[-1].reply.text == "a longer answer"
    assert "".join(event.delta for event in events[:-1]) in ("", "a longer answer")


def test_a_call_waits_is_answered_and_resumed(both, tmp_path):
    front = both(call("burn", "letter"), say("burnt"))
    waiting = front.ask("burn it")
    assert waiting.outcome == "waiting_approval"
    approval = waiting.approvals[0]
    assert (approval.tool, json.loads(approval.arguments_json)) == ("burn", {"item": "letter"})

    def listed(who):
        found = front.stub.ListApprovals(pb.ListApprovalsRequest(), metadata=front.who(who))
        return [item.approval_id for item in found.approvals]

    assert (listed("ann"), listed("eve"), listed("walt")) == ([], [], [approval.approval_id])
    answer = pb.AnswerApprovalRequest(approval_id=approval.approval_id, approve=True)
    for other in ("ann", "eve"):
        refused(
            lambda o=other: front.stub.AnswerApproval(answer, metadata=front.who(o)), CODE.ABORTED
        )
    assert front.stub.AnswerApproval(answer, metadata=front.who("walt")).state == "approved"
    done = front.ask("", session_id=waiting.session_id, resume=True)
    assert done.text == "burnt"
    assert (tmp_path / "things" / "effects.txt").read_text().count("letter") == 1


def test_nobody_is_answered_without_a_credential_and_nobody_elses_session_is_there(both):
    front = both(say("one"))
    mine = front.ask().session_id
    for metadata in ((), (("authorization", "Bearer mak_guess"),), (("authorization", "Basic x"),)):
        for call_ in (
            lambda m=metadata: front.stub.Respond(pb.RespondRequest(input="hi"), metadata=m),
            lambda m=metadata: list(
                front.stub.RespondStream(pb.RespondRequest(input="hi"), metadata=m)
            ),
            lambda m=metadata: front.stub.ListModels(pb.ListModelsRequest(), metadata=m),
            lambda m=metadata: front.stub.ListApprovals(pb.ListApprovalsRequest(), metadata=m),
            lambda m=metadata: front.stub.AnswerApproval(pb.AnswerApprovalRequest(), metadata=m),
        ):
            refused(call_, CODE.UNAUTHENTICATED)
    refused(lambda: front.ask(who="eve", session_id=mine), CODE.NOT_FOUND)


def test_a_wrong_request_is_one_line(both):
    front = both(say("x"), max_body_bytes=4096)
    refused(lambda: front.ask(""), CODE.INVALID_ARGUMENT)
    refused(lambda: front.ask(model="nobody"), CODE.INVALID_ARGUMENT)
    refused(lambda: front.ask("", resume=True), CODE.NOT_FOUND)
    refused(lambda: front.ask("x" * 5000), CODE.RESOURCE_EXHAUSTED)  # before it is read
    models = front.stub.ListModels(pb.ListModelsRequest(), metadata=front.who("ann")).models
    assert [(model.name, model.version) for model in models] == [("shelf", "7")]


def test_quotas_and_time_limits_hold_here_too(both, monkeypatch):
    def limit(root):
        path = root / "agent.yaml"
        quota = {"per": "user", "of": "requests", "limit": 1, "every_seconds": 31_536_000}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"quotas": [quota]}))

    front = both(say("x"), edit=limit, timeout_seconds=0.5)
    assert front.ask().text == "x"
    error = refused(front.ask, CODE.RESOURCE_EXHAUSTED)
    assert int(dict(error.trailing_metadata())["retry-after"]) > 0
    free = threading.Event()
    monkeypatch.setattr(AgentRuntime, "invoke", lambda *_: free.wait(30))
    try:
        refused(lambda: front.ask(who="walt"), CODE.DEADLINE_EXCEEDED)
    finally:
        free.set()
    text = front.http.get("/metrics").text
    assert 'mlflow_agents_http_requests_total{route="grpc:Respond",status="200"}' in text


def test_health_follows_the_store_and_reflection_lists_the_services(
    both, postgres_uri, monkeypatch
):
    from urllib.parse import urlparse

    address = urlparse(postgres_uri)
    link = CutLink(address.hostname, address.port)
    monkeypatch.setenv(
        "MLFLOW_AGENTS_STORE_URI", postgres_uri.replace(f":{address.port}/", f":{link.port}/")
    )
    front = both(say("x"))
    health = health_pb2_grpc.HealthStub(front.channel)

    def status(service=""):
        return health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status

    kinds = health_pb2.HealthCheckResponse
    try:
        assert status("mlflow_agents.v1.Agents") == kinds.SERVING
        refused(lambda: status("nothing"), CODE.NOT_FOUND)
        link.cut()
        assert status() == kinds.NOT_SERVING
        refused(front.ask, CODE.UNAVAILABLE)
        link.mend()
        assert status() == kinds.SERVING
    finally:
        link.mend()
    database = ProtoReflectionDescriptorDatabase(front.channel)
    assert {"mlflow_agents.v1.Agents", "grpc.health.v1.Health"} <= set(database.get_services())
    found = DescriptorPool(database).FindServiceByName("mlflow_agents.v1.Agents")
    assert "RespondStream" in [method.name for method in found.methods]


def test_ending_loses_no_call_it_had_taken(both, monkeypatch):
    front = both(say("late"))
    entered, free, answers = threading.Event(), threading.Event(), []
    plain = AgentRuntime.invoke

    def slow(self, request):
        entered.set()
        free.wait(30)
        return plain(self, request)

    monkeypatch.setattr(AgentRuntime, "invoke", slow)
    asking = threading.Thread(target=lambda: answers.append(front.ask()))
    asking.start()
    assert entered.wait(30)
    ending = threading.Thread(target=front.end)
    ending.start()
    deadline = time.monotonic() + 30
    while True:  # no new call is taken
        try:
            front.stub.ListModels(pb.ListModelsRequest(), metadata=front.who("ann"), timeout=1)
        except grpc.RpcError as error:
            if error.code() is CODE.UNAVAILABLE:
                break
        assert time.monotonic() < deadline
    free.set()
    asking.join(30)
    ending.join(60)
    assert [answer.text for answer in answers] == ["late"]


def test_the_generated_code_is_that_of_the_contract(tmp_path):
    proto = "mlflow_agent_plugin/interaction/grpc/agents.proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
         f"--grpc_python_out={tmp_path}", proto],
        cwd=ROOT, check=True,
    )  # fmt: skip
    for name in ("agents_pb2.py", "agents_pb2_grpc.py"):
        made = tmp_path / "mlflow_agent_plugin/interaction/grpc" / name
        assert (
            made.read_text() == (ROOT / "mlflow_agent_plugin/interaction/grpc" / name).read_text()
        )


def test_an_issuers_token_counts_over_grpc_as_it_does_over_http(tmp_path):
    """The same person, tenant and roles; what HTTP answers with 401 is UNAUTHENTICATED here."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    issuer = Issuer()
    oidc = OidcSettings(issuer=issuer.url, audience="agents", tenant_claim="org",
                        roles_claim="realm.roles")  # fmt: skip
    both = Both(tmp_path, [call("burn", "letter"), say("one"), say("two")], oidc=oidc)

    def bearer(token):
        return (("authorization", f"Bearer {token}"),)

    def code_of(token):
        with pytest.raises(grpc.RpcError) as refused:
            both.stub.Respond(pb.RespondRequest(input="hi"), metadata=bearer(token), timeout=60)
        return refused.value.code()

    def status_of(token):
        headers = {"Authorization": f"Bearer {token}"}
        return both.http.post("/v1/responses", headers=headers, json={"input": "hi"}).status_code

    try:
        asked = pb.RespondRequest(input="burn it")
        waiting = both.stub.Respond(asked, metadata=bearer(issuer.token()), timeout=60)
        (approval,) = waiting.approvals
        own = both.stub.ListApprovals(
            pb.ListApprovalsRequest(), metadata=bearer(issuer.token(sub="walt")), timeout=60
        )
        assert [item.approval_id for item in own.approvals] == [approval.approval_id]
        theirs = both.stub.ListApprovals(
            pb.ListApprovalsRequest(), metadata=bearer(issuer.token(org="other")), timeout=60
        )
        assert not theirs.approvals
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        unsigned = jwt.encode({"sub": "ann", "org": "home"}, None, algorithm="none",
                              headers={"kid": "k1"})  # fmt: skip
        for token in (
            issuer.token(exp=1), issuer.token(aud="others"), issuer.token(iss="https://x.example"),
            issuer.token(org=None), issuer.token(realm={"roles": "warden"}),
            issuer.token(key=other), issuer.token(kid="k2"), unsigned,
        ):  # fmt: skip
            assert (code_of(token), status_of(token)) == (CODE.UNAUTHENTICATED, 401)
    finally:
        both.close()
        issuer.close()
