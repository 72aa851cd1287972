"""The scorers in MLflow's own evaluation: traces, datasets, judges, and the evaluator."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest

import mlflow_agent_plugin as agents
from mlflow_agent_plugin.development.evaluator import suite_frame
from mlflow_agent_plugin.development.measures import measure_calls
from mlflow_agent_plugin.development.mlflow_scorers import (
    agent_scorers,
    judge_scorers,
    predictor,
)
from mlflow_agent_plugin.development.scenario import Expectation
from mlflow_agent_plugin.development.suite import Suite
from mlflow_agent_plugin.entities import CallStatus, ToolCallRecord
from mlflow_agent_plugin.errors import ConfigError


def _call(tool, status=CallStatus.EXECUTED, **arguments):
    return ToolCallRecord(call_id="c", tool=tool, arguments=arguments, status=status)


@pytest.mark.parametrize(
    ("required", "calls", "found"),
    [
        ([], [], (None, None, None)),
        ([{"tool": "a"}], [], (None, 0.0, None)),
        ([{"tool": "a"}], [_call("b")], (0.0, 0.0, None)),
        ([{"tool": "a", "arguments": {"x": 1}}], [_call("a", x=1)], (1.0, 1.0, 1.0)),
        ([{"tool": "a", "arguments": {"x": 1, "y": 2}}], [_call("a", x=1, y=3)], (0.0, 0.0, 0.5)),
        ([{"tool": "a", "arguments": {"x": 1}}], [_call("a", x=2), _call("a", x=1)], (0.5, 1.0, 1.0)),
        ([{"tool": "a", "count": 2}], [_call("a"), _call("a"), _call("a")], (2 / 3, 1.0, None)),
        ([{"tool": "a"}], [_call("a", CallStatus.DENIED)], (0.0, 0.0, None)),
        (
            [{"tool": "a", "arguments": {"x": 1}}, {"tool": "a", "arguments": {"x": 2}}],
            [_call("a", x=2), _call("a", x=1)],
            (1.0, 1.0, 1.0),
        ),
    ],
)  # fmt: skip
def test_calls_are_paired_with_what_was_asked_for(required, calls, found):
    measured = measure_calls(
        Expectation.model_validate({"outcomes": ["acted"], "calls_required": required}), calls
    )
    assert (measured.precision, measured.recall, measured.argument_accuracy) == found


@pytest.fixture
def logged(lamps_dir):
    """The lamp agent, logged and loaded."""
    mlflow.set_experiment("lamps")
    info = agents.log_agent(lamps_dir, name="lamps", registered_model_name="lamps")
    agent = agents.load_agent(info.model_uri)
    yield agent
    agent.close()


SWITCHED = {
    "outcomes": ["acted"], "calls_required": [{"tool": "switch", "arguments": {"lamp": "desk"}}],
}  # fmt: skip


@pytest.mark.integration
def test_genai_evaluate_scores_conversations_and_traffic_alike(logged):
    data = [
        {"inputs": {"turns": ["switch the desk lamp on"]}, "expectations": SWITCHED},
        {
            "inputs": {"turns": ["look at the desk lamp"]},
            "expectations": SWITCHED | {"calls_forbidden": [{"tool": "look"}]},
        },
        {
            "inputs": {"turns": ["look at the desk lamp"]},
            "expectations": {"expected_response": "x"},
        },
    ]
    result = mlflow.genai.evaluate(
        data=data, predict_fn=predictor(logged), scorers=agent_scorers(logged)
    )

    table = result.tables["eval_results"]
    by_text = {}
    for _, row in table.iterrows():
        by_text.setdefault(row["request"]["turns"][0], []).append(row)
    good = by_text["switch the desk lamp on"][0]
    bad = next(r for r in by_text["look at the desk lamp"] if r["safety_violations/value"] == 1)
    assert good["task_success/value"]
    assert good["tool_call_recall/value"] == 1.0
    assert good["latency_seconds/value"] > 0
    assert not bad["task_success/value"]
    assert bad["tool_call_precision/value"] == 0.0
    # A row without a scenario's expectations is measured, but not judged.
    assert result.metrics["task_success/mean"] == 0.5
    assert result.metrics["safety_violations/mean"] == 0.5
    assert result.metrics["steps/mean"] > 1


@pytest.mark.integration
def test_production_traces_are_scored_without_running_anything(logged):
    reply = logged.ask("switch the desk lamp on")
    trace = mlflow.get_trace(reply.trace_id, flush=True)
    by_name = {scorer.name: scorer for scorer in agent_scorers()}

    assert by_name["task_success"].run(trace=trace, expectations=SWITCHED).value is True
    assert by_name["escalated"].run(trace=trace).value is False
    wrong = SWITCHED | {"outcomes": ["refused"]}
    assert by_name["refusal_correct"].run(trace=trace, expectations=wrong).value is False
    assert by_name["task_success"].run(trace=trace, expectations={}) == []
    with pytest.raises(ConfigError, match="trace"):
        by_name["steps"].run(trace=None)


class _Judge(ThreadingHTTPServer):
    """An OpenAI-compatible model that says yes to whatever mentions a lamp."""

    def __init__(self):
        self.asked = []
        super().__init__(("127.0.0.1", 0), _JudgeHandler)


class _JudgeHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        told = json.dumps(body["messages"])
        answer = {"rationale": "it does", "result": "yes" if "The desk lamp" in told else "no"}
        message = {"role": "assistant", "content": json.dumps(answer)}
        data = json.dumps(
            {
                "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        ).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        del args


@pytest.fixture
def judge(monkeypatch):
    """A judge model on this machine."""
    server = _Judge()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.integration
def test_a_judge_model_judges_where_one_is_configured(logged, judge):
    result = mlflow.genai.evaluate(
        data=[{"inputs": {"turns": ["switch the desk lamp on"]}}],
        predict_fn=predictor(logged),
        scorers=judge_scorers("openai:/small", {"names_the_lamp": "The answer names the lamp."}),
    )
    assert judge.asked
    assert result.metrics["names_the_lamp/mean"] == 1.0


@pytest.mark.integration
def test_judges_stand_beside_the_results_of_an_evaluation_never_in_them(lamps_dir, scenario, judge):
    from mlflow.genai.scorers import scorer

    @scorer
    def broken(outputs):
        raise ValueError(outputs)

    suite = Suite(
        name="tiny",
        scenarios=(
            scenario("switch the desk lamp on", "on", SWITCHED),
            scenario("ask", "ask", {"outcomes": ["clarified"]}),
        ),
    )
    rules = judge_scorers("openai:/small", {"names_the_lamp": "The answer names the lamp."})
    plain = agents.evaluate(lamps_dir, [suite], workers=0, progress=False)
    result = agents.evaluate(
        lamps_dir, [suite], workers=0, progress=False, scorers=[*rules, broken]
    )

    metrics = mlflow.get_run(result.run_id).data.metrics
    assert metrics["tiny/names_the_lamp_mean"] == 0.5
    assert metrics["tiny/broken_failed"] == 2
    assert judge.asked
    assert result.suites["tiny"].results_digest == plain.suites["tiny"].results_digest


@pytest.mark.parametrize(("model", "rules"), [("gpt", {"a": "b"}), ("openai:/x", {})])
def test_a_judge_without_a_model_or_a_rule_is_an_error(model, rules):
    with pytest.raises(ConfigError):
        judge_scorers(model, rules)


@pytest.mark.integration
def test_the_evaluator_of_mlflow_models_evaluate_plays_scenarios(logged, scenario, monkeypatch):
    from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry

    from mlflow_agent_plugin.development.evaluator import AgentEvaluator

    if "agent" not in _model_evaluation_registry._registry:  # an older install of this checkout
        _model_evaluation_registry.register("agent", AgentEvaluator)
    suite = Suite(
        name="tiny",
        scenarios=(
            scenario("switch the desk lamp on", "on", SWITCHED),
            scenario("look at the desk lamp", "look", SWITCHED),
        ),
    )
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            model="models:/lamps/1", data=suite_frame(suite), model_type="agent",
            evaluators="agent", evaluator_config={"suite": "tiny", "workers": 0},
        )  # fmt: skip

    assert result.metrics["tiny/task_success"] == 0.5
    assert result.metrics["tiny/tool_call_recall"] == 0.5
    assert mlflow.get_run(run.info.run_id).data.metrics["tiny/cases"] == 2
    with mlflow.start_run(), pytest.raises(mlflow.MlflowException, match="no column 'scenario'"):
        mlflow.models.evaluate(
            model="models:/lamps/1", data=suite_frame(suite).rename(columns={"scenario": "x"}),
            model_type="agent", evaluators="agent",
        )  # fmt: skip
