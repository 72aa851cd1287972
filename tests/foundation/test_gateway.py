"""MLflow AI Gateway as a provider: a real MLflow server before a real OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from helpers.agents_server import free_port
from langchain_core.messages import HumanMessage, ToolMessage

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.foundation import build_chat_model
from mlflow_agent_plugin.package import ModelSpec

UPSTREAM_KEY = "upstream-key-4711"


class Upstream(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint: calls the first tool it is offered, then sums up its result."""

    def __init__(self):
        self.requests = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        last = body["messages"][-1]
        if last["role"] == "tool" or not body.get("tools"):
            message = {"role": "assistant", "content": f"I read {last['content']}."}
        else:
            function = {"name": body["tools"][0]["function"]["name"],
                        "arguments": json.dumps({"last4": "1234"})}  # fmt: skip
            message = {"role": "assistant", "content": None,
                       "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}  # fmt: skip
        answer = json.dumps(
            {
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason":
                             "tool_calls" if message.get("tool_calls") else "stop"}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            }
        ).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """Start a stock MLflow server with an endpoint `helpdesk`; give its address and the upstream."""
    folder = tmp_path_factory.mktemp("gateway")
    upstream = Upstream()
    thread = threading.Thread(target=upstream.serve_forever)
    thread.start()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    environment |= {"MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
                    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"],
            stdout=output, stderr=output, env=environment, cwd=folder,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if requests.get(f"{url}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
            time.sleep(0.2)

        def make(what, **body):
            answer = requests.post(
                f"{url}/api/3.0/mlflow/gateway/{what}/create", json=body, timeout=60
            )
            assert answer.ok, answer.text
            return next(iter(answer.json().values()))

        secret = make(
            "secrets", secret_name="upstream", provider="openai",
            secret_value={"api_key": UPSTREAM_KEY},
            auth_config={"api_base": f"http://127.0.0.1:{upstream.server_address[1]}/v1"},
        )  # fmt: skip
        model = make(
            "model-definitions", name="some", secret_id=secret["secret_id"], provider="openai",
            model_name="some-llm",
        )  # fmt: skip
        make(
            "endpoints", name="helpdesk", usage_tracking=False,
            model_configs=[{"model_definition_id": model["model_definition_id"],
                            "linkage_type": "PRIMARY", "weight": 1.0}],
        )  # fmt: skip
        yield url, upstream
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        upstream.shutdown()
        upstream.server_close()
        thread.join()


def spec(name="helpdesk", **settings):
    return ModelSpec(provider="mlflow-gateway", name=name, settings=settings)


@pytest.mark.integration
def test_an_endpoint_of_the_gateway_plans_with_tools(gateway, desk, schemas, monkeypatch):
    url, upstream = gateway
    monkeypatch.setenv("MLFLOW_GATEWAY_URI", url)
    monkeypatch.setenv("OPENAI_API_KEY", "must-not-travel")
    bound = build_chat_model(spec(max_retries=0), desk).bind_tools(schemas(["find_card"]))
    messages = [HumanMessage("my card was stolen")]
    messages.append(bound.invoke(messages))
    call = messages[-1].tool_calls[0]
    assert (call["name"], call["args"]) == ("find_card", {"last4": "1234"})
    assert messages[-1].usage_metadata["total_tokens"] == 18
    messages.append(ToolMessage("gone", tool_call_id=call["id"]))
    assert bound.invoke(messages).text == "I read gone."
    path, authorization, body = upstream.requests[-1]
    assert path == "/v1/chat/completions"
    assert authorization == f"Bearer {UPSTREAM_KEY}"
    assert body["model"] == "some-llm"
    assert "must-not-travel" not in json.dumps([r[1] for r in upstream.requests])


@pytest.mark.integration
def test_an_endpoint_that_is_not_there_is_an_error_and_a_fallback_takes_over(gateway, desk):
    url, _ = gateway
    missing = build_chat_model(spec("nobody", gateway_uri=url, max_retries=0), desk)
    with pytest.raises(Exception, match=r"nobody|404|not found"):
        missing.invoke("hi")
    both = ModelSpec(
        provider="mlflow-gateway", name="nobody", settings={"gateway_uri": url, "max_retries": 0},
        fallbacks=[spec(gateway_uri=url)],
    )  # fmt: skip
    assert build_chat_model(both, desk).invoke("hi").text == "I read hi."


def test_mlflows_own_credentials_are_sent_and_no_providers_key(desk, monkeypatch):
    monkeypatch.setenv("MLFLOW_GATEWAY_URI", "https://mlflow.example.com/")
    monkeypatch.setenv("OPENAI_API_KEY", "must-not-travel")
    plain = build_chat_model(spec(), desk)
    assert str(plain.openai_api_base) == "https://mlflow.example.com/gateway/mlflow/v1"
    assert plain.openai_api_key.get_secret_value() == "mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    sent = build_chat_model(spec(), desk).default_headers["Authorization"]
    assert sent == "Basic " + base64.b64encode(b"ann:pw").decode()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    assert build_chat_model(spec(), desk).default_headers["Authorization"] == "Bearer token"


def test_where_the_server_is_must_be_known_where_the_agent_runs(desk, monkeypatch):
    for uri in (None, "sqlite:///mlflow.db"):
        if uri is None:
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError, match="gateway_uri: nothing says where"):
            build_chat_model(spec(), desk)
        build_chat_model(spec(), desk, checking=True)  # when it is logged, it need not be
    for name in ("base_url", "default_headers"):
        with pytest.raises(ConfigError, match=f"{name} is not a setting"):
            build_chat_model(spec(**{name: "https://x"}), desk)
    with pytest.raises(ConfigError, match="a secret does not belong"):
        build_chat_model(spec(api_key="x"), desk)
