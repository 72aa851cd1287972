"""OpenAI's own client against the front end: answers, streams, errors, approvals."""

from __future__ import annotations

import json

import openai
import pytest
from helpers.shelf_agent import call, say, write_bundle
from starlette.testclient import TestClient

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.interaction.serve.agents import ServedAgents
from mlflow_agent_plugin.interaction.serve.app import make_app
from mlflow_agent_plugin.interaction.serve.people import make_key
from mlflow_agent_plugin.interaction.serve.settings import ServeSettings
from mlflow_agent_plugin.package import load_bundle


@pytest.fixture
def client(tmp_path):
    """Return a function that gives OpenAI's client of `who` before an agent with these replies."""
    made, entries, opened = {}, [], []
    for actor in ("ann@home", "walt@home:warden"):
        key, digest = make_key()
        made[actor.partition("@")[0]] = key
        entries.append({"sha256": digest, "actor": actor})
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))

    def make(*replies, who="ann", **settings):
        if not opened:
            root = write_bundle(tmp_path / "shelf", list(replies), folder=tmp_path / "things")
            runtime = AgentRuntime.open(load_bundle(root), tracing=False)
            chosen = ServeSettings(
                agents={"shelf": "x"}, keys=str(tmp_path / "keys.yaml"), **settings
            )
            app = make_app(chosen, ServedAgents({"shelf": runtime}, Settings.from_env()))
            opened.append(TestClient(app))
            opened[0].__enter__()
        return openai.OpenAI(
            base_url="http://testserver/v1", api_key=made[who], http_client=opened[0],
            max_retries=0,
        )  # fmt: skip

    yield make
    for each in opened:
        each.__exit__(None, None, None)


def test_responses_are_read(client):
    found = client(say("welcome")).responses.create(model="shelf", input="hi")
    assert found.output_text == "welcome"
    assert found.usage.total_tokens >= 0
    assert found.status == "completed"


def test_a_stream_of_responses_is_read_event_by_event(client):
    with client(say("a longer answer")).responses.stream(model="shelf", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds
    assert kinds[-1] == "response.completed"
    assert final.output_text == "a longer answer"


def test_chat_completions_are_read_whole_and_streamed(client):
    asked = client(say("one"), say("two"))
    messages = [{"role": "user", "content": "hi"}]
    first = asked.chat.completions.create(model="shelf", messages=messages)
    assert first.choices[0].message.content == "one"
    stream = asked.chat.completions.create(
        model="shelf", messages=messages, stream=True,
        metadata={"session_id": first.session_id}, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "two"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens >= 0


def test_a_waiting_call_is_seen_answered_and_resumed(client, tmp_path):
    asked = client(call("burn", "letter"), say("burnt"))
    first = asked.responses.create(model="shelf", input="burn it")
    request = next(item for item in first.output if item.type == "mcp_approval_request")
    assert request.name == "burn"
    client(who="walt").post(f"/approvals/{request.id}/approve", body={}, cast_to=object)
    done = asked.responses.create(
        model="shelf",
        input=[
            {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
        ],
        extra_body={"custom_inputs": {"session_id": first.custom_outputs["session_id"]}},
    )
    assert done.output_text == "burnt"


def test_errors_have_the_class_the_client_knows(client):
    asked = client(say("x"))
    with pytest.raises(openai.BadRequestError, match="names no agent"):
        asked.responses.create(model="nobody", input="hi")
    asked.api_key = "mak_wrong"
    with pytest.raises(openai.AuthenticationError):
        asked.responses.create(model="shelf", input="hi")
    with pytest.raises(openai.AuthenticationError):
        list(asked.responses.create(model="shelf", input="hi", stream=True))
