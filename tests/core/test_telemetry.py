"""What a served turn leaves for others: spans at a collector, samples that keep every incident."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
from helpers.lamp_agent import call, say, write_lamps

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime, validate
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import AuditKind, AuditLog

IDA = Actor(user="ida", tenant="home")
EMAIL = "ida.secret@example.org"


@pytest.fixture
def open_lamps(tmp_path):
    """Return a function that opens the agent of lamps with tracing on."""
    opened = []

    def make(*scripts):
        root = write_lamps(tmp_path / "lamps", list(scripts))
        runtime = AgentRuntime.open(
            validate(root), store=Store.open(), settings=Settings.from_env(), tracing=True
        )
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()
        runtime.store.close()


LOOK = {"when": "^look", "replies": [call("look", "desk", note=f"mail {EMAIL}"), say("Off.")]}
DOOR = {"when": "^door", "replies": [call("switch", "door"), say("I may not.")]}
SMASH = {"when": "^smash", "replies": [call("smash", "desk"), say("Smashed.")]}


class Collector:
    """An OpenTelemetry collector: takes OTLP over HTTP, and remembers the spans."""

    def __init__(self):
        self.spans, self.bodies, self.got = [], [], threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802 - the base class's name
                import gzip

                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
                    ExportTraceServiceRequest,
                )

                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                with collector.got:
                    collector.bodies.append(body)
                    for resource in request.resource_spans:
                        for scope in resource.scope_spans:
                            collector.spans += scope.spans
                    collector.got.notify_all()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, name):
        with self.got:
            assert self.got.wait_for(lambda: name in {s.name for s in self.spans}, timeout=60)

    def attribute(self, span_name, key):
        (span,) = [each for each in self.spans if each.name == span_name]
        return next(a.value.string_value for a in span.attributes if a.key == key).strip('"')


@pytest.fixture
def collector(monkeypatch):
    """A collector, running and named to MLflow."""
    running = Collector()
    endpoint = f"http://127.0.0.1:{running.server.server_port}/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT", "true")
    mlflow.tracing.reset()
    yield running
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    mlflow.tracing.reset()
    running.server.shutdown()
    running.server.server_close()


def test_a_collector_gets_every_span_masked_with_the_ids_of_the_audit(open_lamps, collector):
    agent = open_lamps(LOOK)
    agent.invoke(AgentRequest(f"look, I am {EMAIL}", session_id="s", actor=IDA))
    collector.wait_for("lamps")
    names = {span.name for span in collector.spans}
    assert {"lamps", "plan", "tool look", "policy look"} <= names
    assert not any(EMAIL.encode() in body for body in collector.bodies)
    (decided,) = AuditLog(agent.store).events(kind=AuditKind.TOOL_CALL_DECIDED)
    assert collector.attribute("lamps", "agent.request_id") == decided.request_id
    assert collector.attribute("tool look", "agent.call_id") == decided.body["call_id"]
    # And MLflow has the trace too.
    mlflow.flush_trace_async_logging()
    assert len(mlflow.search_traces(return_type="list")) == 1


def spans_by_request():
    mlflow.flush_trace_async_logging()
    found = {}
    for trace in mlflow.search_traces(return_type="list", include_spans=True):
        names = {span.name for span in trace.data.spans}
        found[trace.info.trace_metadata["mlflow.trace.session"]] = (names, trace.info.tags)
    return found


def test_sampling_drops_spans_of_ordinary_requests_and_of_no_incident(open_lamps, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_TRACE_SAMPLING", "0")
    agent = open_lamps(LOOK, DOOR, SMASH)
    for session, text in (("ordinary", "look"), ("denied", "door"), ("waiting", "smash")):
        agent.invoke(AgentRequest(text, session_id=session, actor=IDA))
    found = spans_by_request()
    assert found["ordinary"][0] == {"lamps"}
    assert {"lamps", "plan", "tool switch", "policy switch"} <= found["denied"][0]
    assert {"lamps", "plan", "tool smash", "policy smash"} <= found["waiting"][0]
    # Every request keeps its row, so that the monitoring table stays whole.
    assert all("agent.summary" in tags for _, tags in found.values())


def rows_by_request():
    return {session: json.loads(tags["agent.summary"]) for session, (_, tags) in
            spans_by_request().items()}  # fmt: skip


def test_what_was_stopped_stands_in_the_row_by_kind(open_lamps):
    made_up = {"when": "^conjure", "replies": [call("conjure", "desk"), say("No such tool.")]}
    agent = open_lamps(LOOK, DOOR, made_up)
    for session, text in (("fine", "look"), ("denied", "door"), ("invalid", "conjure")):
        agent.invoke(AgentRequest(text, session_id=session, actor=IDA))
    rows = rows_by_request()
    assert rows["fine"]["violations"] == []
    assert rows["denied"]["violations"] == ["denied_call"]
    assert rows["invalid"]["violations"] == ["invalid_call"]


def test_a_denied_call_with_an_argument_out_of_third_parties_text_is_told_apart():
    from mlflow_agent_plugin.core.observed import _Policies
    from mlflow_agent_plugin.core.tracing import Tracer
    from mlflow_agent_plugin.core.turn import CURRENT_TURN, Turn
    from mlflow_agent_plugin.entities import Decision, DecisionValue, PolicyRequest, Violation

    class Strict:
        digest = "sha256:00"

        def decide(self, request):
            return Decision(DecisionValue.DENY, ("no",), "no")

    now = datetime.now(timezone.utc)
    turn = Turn("r", "s", IDA, "o", 1, now)
    token = CURRENT_TURN.set(turn)
    try:
        policies = _Policies(Strict(), Tracer(enabled=False))
        for provenance in ({"to": "user"}, {"to": "untrusted"}):
            policies.decide(PolicyRequest(IDA, "a", "pay", {}, {}, provenance))
    finally:
        CURRENT_TURN.reset(token)
    assert turn.violations == [Violation.DENIED_CALL, Violation.UNTRUSTED_TARGET]
