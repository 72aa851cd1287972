"""What users say about answers, over HTTP, on a real tracking store."""

from __future__ import annotations

import json

import mlflow
import pytest
from helpers.shelf_agent import say, write_bundle
from mlflow.entities import AssessmentSource
from starlette.testclient import TestClient

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.interaction.serve import feedback
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.lifecycle import collect_feedback, collect_labels
from mlflow_agent_plugin.package import load_bundle

PATH = "/v1/feedback"


@pytest.fixture
def front(tmp_path, monkeypatch):
    """Give a client by person, before an agent whose requests are traced."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_AGENTS_SPOOL", "false")
    mlflow.set_experiment("traffic")
    keys, entries = {}, []
    for actor in ("ann@home", "lea@home:labeller", "eve@elsewhere:labeller"):
        key, digest = make_key()
        keys[actor.partition("@")[0]] = key
        entries.append({"sha256": digest, "actor": actor})
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
    root = write_bundle(tmp_path / "shelf", [say("one"), say("two")], folder=tmp_path / "things")
    agents = {"shelf": AgentRuntime.open(load_bundle(root))}
    settings = ServeSettings(
        agents={"shelf": "models:/x/1"}, keys=str(tmp_path / "keys.yaml"), anonymous=True
    )
    app = make_app(settings, ServedAgents(agents, Settings.from_env()))
    with TestClient(app) as client:

        def post(who, path=PATH, **body):
            headers = {"Authorization": f"Bearer {keys[who]}"} if who else {}
            return client.post(path, json=body, headers=headers)

        yield post


def test_a_thumb_reaches_the_answer_s_trace_and_a_changed_mind_replaces_it(front):
    answer = front("ann", "/v1/responses", input="where is it").json()
    trace = answer["custom_outputs"]["trace_id"]
    kept = front("ann", thumb="up", response_id=answer["id"])
    assert kept.status_code == 200, kept.text
    assert kept.json() == {"trace_id": trace, "kept": True}
    said = {"thumb": "down", "trace_id": trace, "comment": "ask jo@example.org"}
    for _ in range(2):
        assert front("ann", **said).status_code == 200
    assert front("lea", thumb="up", trace_id=trace).status_code == 200
    (row,) = collect_feedback().to_dict("records")
    assert (row["thumbs_up"], row["thumbs_down"]) == (1, 1)
    assert row["comments"] == ["ask <EMAIL>"]
    assessments = mlflow.get_trace(trace).info.assessments
    assert len(assessments) == 3  # the same thing again is no fourth
    assert not {"ann", "lea"} & {a.source.source_id for a in assessments}


def test_a_chat_completion_s_id_names_its_answer_too(front):
    messages = [{"role": "user", "content": "hi"}]
    answer = front("ann", "/v1/chat/completions", messages=messages).json()
    assert front("ann", thumb="up", response_id=answer["id"]).status_code == 200
    assert len(collect_feedback()) == 1


def test_only_a_labeller_says_what_a_request_really_was(front):
    answer = front("ann", "/v1/responses", input="where is it").json()
    label = {"response_id": answer["id"], "intent": "lost_and_found"}
    refused = front("ann", **label)
    assert refused.status_code == 403
    assert "labeller" in refused.json()["error"]["message"]
    assert front("ann", response_id=answer["id"], answer="On the shelf.").status_code == 200
    assert collect_labels().empty
    assert front("lea", **label).status_code == 200
    assert collect_labels()["label"].tolist() == ["lost_and_found"]


def test_nobody_rates_another_tenant_s_answer_or_learns_that_it_exists(front):
    answer = front("ann", "/v1/responses", input="where is it").json()
    theirs = front("eve", thumb="down", response_id=answer["id"])
    unknown = front("eve", thumb="down", response_id="resp_" + "0" * 32)
    assert theirs.status_code == unknown.status_code == 404
    blank = theirs.text.replace(answer["id"][5:], "0" * 32)
    assert blank == unknown.text
    assert collect_feedback().empty


def test_what_makes_no_sense_is_refused_clearly(front):
    for status, body in (
        (400, {}),
        (400, {"trace_id": "tr-1"}),
        (400, {"thumb": "up"}),
        (400, {"trace_id": "tr-1", "response_id": "resp_1", "thumb": "up"}),
        (400, {"trace_id": "tr-1", "thumb": "sideways"}),
        (400, {"trace_id": 7, "thumb": "up"}),
        (400, {"trace_id": "tr-1", "thumb": "up", "by": "boss"}),
        (400, {"trace_id": "tr-1", "answer": " "}),
        (400, {"trace_id": "tr-1", "comment": "only that"}),
        (400, {"trace_id": "tr-1", "thumb": "up", "comment": "x" * 2001}),
        (400, {"response_id": "resp_streamed", "thumb": "up"}),
        (404, {"trace_id": "tr-1", "thumb": "up"}),
        (404, {"trace_id": "../../x\u0000", "thumb": "up"}),
    ):
        answer = front("lea", **body)
        assert answer.status_code == status, (body, answer.text)
        assert "Traceback" not in answer.text


def test_nobody_without_a_credential_gives_feedback(front):
    assert front(None, thumb="up", trace_id="tr-1").status_code == 401
    assert front(None, "/v1/responses", input="hi").status_code == 200


def test_a_trace_that_is_no_request_to_an_agent_is_like_none(front):
    with mlflow.start_span("other") as span:
        pass
    mlflow.log_feedback(
        trace_id=span.trace_id, name="thumb", value=True,
        source=AssessmentSource(source_type="HUMAN", source_id="x"),
    )  # fmt: skip
    assert front("ann", thumb="up", trace_id=span.trace_id).status_code == 404


@pytest.fixture
def still(monkeypatch):
    """Let no minute end."""
    moment = utc_now().replace(second=20)
    monkeypatch.setattr(feedback, "utc_now", lambda: moment)
    monkeypatch.setattr(feedback, "PER_MINUTE", 2)


def test_a_person_who_never_stops_is_asked_to_wait_and_nobody_else_is(still, front):
    trace = front("ann", "/v1/responses", input="where").json()["custom_outputs"]["trace_id"]
    answers = [front("ann", thumb=thumb, trace_id=trace) for thumb in ("up", "down", "up")]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
    assert "in a minute" in answers[-1].text
    (row,) = collect_feedback().to_dict("records")
    assert (row["thumbs_up"], row["thumbs_down"]) == (0, 1)
    for _ in range(4):
        assert front("lea", thumb="up", trace_id=trace).status_code == 200
