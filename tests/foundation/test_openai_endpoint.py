"""An OpenAI-compatible endpoint, for real: HTTP on this machine, LangChain's own client."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from langchain_core.messages import HumanMessage, ToolMessage

from mlflow_agent_plugin.foundation import build_chat_model
from mlflow_agent_plugin.package import ModelSpec

pytestmark = pytest.mark.integration


class Endpoint(ThreadingHTTPServer):
    """Speaks /v1/chat/completions: calls the first tool it is offered, then sums up its result."""

    def __init__(self):
        self.requests = []
        self.fail = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.fail:
            return self._send(self.server.fail, {"error": {"message": "out of order"}})
        last = body["messages"][-1]
        if last["role"] == "tool":
            message = {"role": "assistant", "content": f"The tool said {last['content']}."}
        else:
            function = {
                "name": body["tools"][0]["function"]["name"],
                "arguments": json.dumps({"last4": "1234"}),
            }
            call = {"id": "call_1", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        if body.get("stream"):
            return self._stream(message)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        return self._send(
            200,
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            },
        )

    def _send(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, message):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in (message["content"] or "").split(" "):
            delta = {"role": "assistant", "content": word + " "}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(desk, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    settings = {"base_url": endpoint.url, "max_retries": 0, "timeout": 10}
    return build_chat_model(ModelSpec(provider="openai", name="some-llm", settings=settings), desk)


def test_a_tool_call_goes_out_and_comes_back(model, endpoint, schemas):
    bound = model.bind_tools(schemas(["find_card"]))
    messages = [HumanMessage("my card was stolen")]
    messages.append(bound.invoke(messages))
    call = messages[-1].tool_calls[0]
    assert (call["name"], call["args"]) == ("find_card", {"last4": "1234"})
    assert messages[-1].usage_metadata["total_tokens"] == 18
    messages.append(ToolMessage("gone", tool_call_id=call["id"]))
    assert bound.invoke(messages).text == "The tool said gone."
    path, authorization, body = endpoint.requests[0]
    assert (path, body["model"]) == ("/v1/chat/completions", "some-llm")
    assert authorization == "Bearer from-the-environment"


def test_the_tools_of_an_agent_reach_the_endpoint_as_their_contracts_say(desk, model, endpoint):
    from mlflow_agent_plugin.core.context import describe_tools

    tools = describe_tools([desk.contracts["refund"]])
    model.bind_tools(tools).invoke("refund me")
    function = endpoint.requests[0][2]["tools"][0]["function"]
    assert function["name"] == "refund"
    assert function["parameters"]["properties"]["amount_minor"] == {"type": "integer"}


def test_an_answer_is_streamed_as_it_comes(model, schemas):
    messages = [
        HumanMessage("hi"),
        *_called(model, schemas),
        ToolMessage("x", tool_call_id="call_1"),
    ]
    chunks = [chunk.text for chunk in model.bind_tools(schemas(["find_card"])).stream(messages)]
    assert "".join(chunks).strip() == "The tool said x."
    assert len([chunk for chunk in chunks if chunk]) == 4


def test_the_local_planner_takes_over_when_the_endpoint_is_down(
    desk, endpoint, monkeypatch, schemas
):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    endpoint.fail = 503
    settings = {"base_url": endpoint.url, "max_retries": 0}
    local = ModelSpec(provider="local", name="desk", path="model")
    spec = ModelSpec(provider="openai", name="llm", settings=settings, fallbacks=[local])
    reply = build_chat_model(spec, desk).bind_tools(schemas()).invoke("my card was stolen")
    assert reply.response_metadata["model_name"] == "desk"
    assert len(endpoint.requests) == 1


def _called(model, schemas):
    return [model.bind_tools(schemas(["find_card"])).invoke("hi")]
