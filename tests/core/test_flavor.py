"""An agent is one MLflow model: logged whole, loaded only untouched, served like any other."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from helpers.shelf_agent import GRAPH_PY, call, say

import mlflow_agent_plugin as agents
from mlflow_agent_plugin.core import fetch_bundle
from mlflow_agent_plugin.core.predecessor import ContractsNotComparedWarning
from mlflow_agent_plugin.errors import AgentError, BundleError, ContractError, IntegrityError


def request(text="go", **more):
    return {"input": [{"role": "user", "content": text}], **more}


@pytest.fixture
def saved(shelf, tmp_path):
    """Save a shelf agent that puts a lamp; return the model's folder."""

    def make(*replies):
        agents.save_agent(
            shelf(*(replies or (call("put", "lamp"), say("done")))).root, tmp_path / "m"
        )
        return tmp_path / "m"

    return make


def test_a_saved_agent_answers_through_plain_pyfunc(saved, effects):
    import mlflow

    model = mlflow.pyfunc.load_model(str(saved()))
    answer = model.predict(request(context={"conversation_id": "c1"}))
    assert answer["output"][0]["content"][0]["text"] == "done"
    assert answer["custom_outputs"]["outcome"] == "acted"
    assert answer["custom_outputs"]["session_id"] == "c1"
    assert effects() == ["lamp"]
    from mlflow.types.responses import ResponsesAgentResponse

    ResponsesAgentResponse(**answer)


def test_a_stream_ends_with_the_whole_response(saved):
    import mlflow
    from mlflow.types.responses import ResponsesAgentStreamEvent

    events = list(mlflow.pyfunc.load_model(str(saved())).predict_stream(request()))
    for event in events:
        ResponsesAgentStreamEvent(**event)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["custom_outputs"]["outcome"] == "acted"
    assert [event["type"] for event in events].count("response.output_item.done") == 1


def test_a_call_that_waits_is_an_approval_request_item_and_the_response_item_resumes(
    saved, effects
):
    import mlflow

    from mlflow_agent_plugin.entities import Actor
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue

    model = mlflow.pyfunc.load_model(str(saved(call("burn", "map"), say("burnt"))))
    here = {"context": {"conversation_id": "c1"}}
    waiting = model.predict(request(**here))
    item = waiting["output"][-1]
    assert (item["type"], item["name"]) == ("mcp_approval_request", "burn")
    said_yes = {
        "input": [
            {"type": "mcp_approval_response", "approval_request_id": item["id"], "approve": True}
        ],
        **here,
    }
    assert model.predict(said_yes)["custom_outputs"]["outcome"] == "waiting_approval"
    assert effects() == []
    with Store.open() as store:
        ApprovalQueue(store).approve(item["id"], Actor("walt", roles=frozenset({"warden"})))
    assert model.predict(said_yes)["custom_outputs"]["outcome"] == "acted"
    assert effects() == ["map"]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "input: is missing or empty"),
        ({"input": []}, "input: is missing or empty"),
        ({"input": [{"role": "user", "content": ""}]}, "the message is empty"),
        ({"input": [{"role": "user", "content": "  \n"}]}, "the message is empty"),
        ({"input": [{"role": "user", "content": "x" * 1_000_000}]}, "has 1000000 characters"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "no user message"),
        ({"input": ["x"]}, "input[0]: is not an object"),
        (request(custom_inputs={"user": "root"}), "custom_inputs.user: is not known"),
        (request(custom_inputs={"actor_token": "forged"}), "token"),
        (request(custom_inputs={"event_time": "2026-01-01T00:00:00Z"}), "event_time"),
        (request(context={"conversation_id": "a\nb"}), "conversation_id"),
        (
            {"input": [{"type": "mcp_approval_response", "approval_request_id": "x", "approve": True}],
             "context": {"conversation_id": "nobody"}},
            "session",
        ),
    ],
)  # fmt: skip
def test_a_wrong_request_gets_one_short_line(saved, payload, words):
    import mlflow
    from mlflow.exceptions import MlflowException

    model = mlflow.pyfunc.load_model(str(saved()))
    with pytest.raises(MlflowException) as caught:
        model.predict(payload)
    assert words in str(caught.value)
    assert caught.value.get_http_status_code() in (400, 401, 404)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_any_changed_file_of_a_saved_agent_refuses_to_load(saved):
    import mlflow
    from mlflow.exceptions import MlflowException

    folder = saved()
    policy = folder / "agent" / "policies" / "permit.cedar"
    policy.write_text(policy.read_text() + "\n")
    with pytest.raises(MlflowException, match=r"policies/permit.cedar"):
        mlflow.pyfunc.load_model(str(folder))
    with pytest.raises(IntegrityError):
        agents.load_agent(str(folder))


@pytest.mark.parametrize("damage", ["remove", "no flavor", "no digest", "garbage"])
def test_a_model_whose_record_of_itself_is_damaged_refuses_to_load(saved, damage):
    record = saved() / "MLmodel"
    content = yaml.safe_load(record.read_text())
    if damage == "remove":
        record.unlink()
    elif damage == "garbage":
        record.write_text("{")
    else:
        if damage == "no flavor":
            del content["flavors"]["agent"]
        else:
            del content["flavors"]["agent"]["digest"]
        record.write_text(yaml.safe_dump(content))
    with pytest.raises(AgentError):
        fetch_bundle(str(record.parent))


def test_a_bundle_that_is_not_in_order_leaves_no_run_no_model_and_no_version(shelf):
    import mlflow

    root = shelf(say("hi")).root
    (root / "graph.py").write_text("def build(context):\n    raise KeyError('oops')\n")
    with pytest.raises(BundleError, match="oops"):
        agents.log_agent(root, registered_model_name="shelf")
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
    assert mlflow.search_logged_models(output_format="list") == []
    assert mlflow.MlflowClient().search_registered_models() == []


def test_logging_makes_one_model_a_version_with_a_card_and_linked_prompts(shelf):
    import mlflow

    bundle = shelf(say("hi"))
    info = agents.log_agent(bundle.root, registered_model_name="shelf")
    version = mlflow.MlflowClient().get_model_version("shelf", str(info.registered_model_version))
    assert bundle.digest.value in version.description
    assert mlflow.genai.load_prompt("prompts:/shelf.hello@latest").template == "Hello {{ name }}!"
    again = agents.log_agent(bundle.root, registered_model_name="shelf")
    assert again.registered_model_version == 2
    assert mlflow.genai.load_prompt("prompts:/shelf.hello@latest").version == 1
    assert (
        fetch_bundle("models:/shelf/1").digest.value == fetch_bundle("models:/shelf/2").digest.value
    )


def test_the_card_is_two_tables_under_headings_of_their_own_whatever_the_author_wrote(shelf):
    from markdown_it import MarkdownIt

    root = shelf(say("hi")).root
    manifest = yaml.safe_load((root / "agent.yaml").read_text())
    manifest["description"] = "``` Keeps shelves.\n\n| a | b |\n|---|---|\n# Not a heading\n"
    manifest["workflow"]["goal"] = "keep\n\n- the\n\n## shelf"
    (root / "agent.yaml").write_text(yaml.safe_dump(manifest))
    card = agents.core.model_card(agents.load_bundle(root))
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    blocks = [
        (token.type.removesuffix("_open"), inner.content)
        for token, inner in zip(tokens, [*tokens[1:], tokens[-1]], strict=True)
        if token.level == 0 and token.nesting == 1
    ]
    assert [kind for kind, _ in blocks] == [
        "heading", "paragraph", "bullet_list", "heading", "table", "heading", "table",
    ]  # fmt: skip
    assert [text for kind, text in blocks if kind == "heading"] == ["shelf", "Tools", "Content"]
    rows = [token.type for token in tokens].count("tr_open")
    components = agents.load_bundle(root).digest.components
    assert rows == 2 + len(manifest["tools"]["python"]) + len(components)
    assert not [token for token in tokens if token.type == "fence"]


def test_a_turn_that_fails_is_in_the_traces_as_failed_and_tells_the_client_one_line(shelf):
    import mlflow
    from mlflow.exceptions import MlflowException

    graph = GRAPH_PY.replace("model.invoke(state", "1 / 0, model.invoke(state")
    info = agents.log_agent(shelf(say("hi"), graph=graph).root)
    model = mlflow.pyfunc.load_model(info.model_uri)
    with pytest.raises(
        MlflowException, match=r"request \w+: the agent failed \(ZeroDivisionError\)"
    ):
        model.predict(request())
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(return_type="list", include_spans=False)
    summary = json.loads(trace.info.tags["agent.summary"])
    assert summary["outcome"] == "failed"


def test_a_request_leaves_one_trace_with_its_summary(shelf, effects):
    import mlflow

    info = agents.log_agent(shelf(call("put", "lamp"), say("done")).root)
    mlflow.pyfunc.load_model(info.model_uri).predict(request("pay jo@example.org"))
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(return_type="list", include_spans=True)
    summary = json.loads(trace.info.tags["agent.summary"])
    assert summary["outcome"] == "acted"
    assert summary["tools"] == ["put"]
    assert "jo@example.org" not in trace.to_json()
    assert {span.name for span in trace.data.spans} >= {"shelf", "tool put"}


@pytest.fixture
def with_contract(shelf):
    """Return a function that writes the shelf agent with the contract of `put` changed."""

    def make(name, *changes):
        root = shelf(say("hi"), name=name).root
        path = root / "contracts" / "put.yaml"
        for old, new in changes:
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        return root

    return make


STRICTER = ("required: [item]", "required: [item, amount]")


def test_a_breaking_contract_without_a_major_version_is_not_logged(with_contract):
    import mlflow

    agents.log_agent(with_contract("one"), registered_model_name="shelf")
    runs = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    models = len(mlflow.search_logged_models(output_format="list"))
    for name, version in (("same", "1.0.0"), ("minor", "1.9.0"), ("back", "0.9.0")):
        root = with_contract(name, STRICTER, ("version: 1.0.0", f"version: {version}"))
        (root / "prompts" / "hello.md").write_text("Hello, {{ name }}.")
        with pytest.raises(ContractError) as refused:
            agents.log_agent(root, registered_model_name="shelf")
        for part in ("put (1.0.0 -> ", "amount", "contracts/put.yaml", "put 2.0.0", "version 1 of"):
            assert part in str(refused.value)
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == runs
    assert len(mlflow.search_logged_models(output_format="list")) == models
    assert len(mlflow.MlflowClient().search_model_versions("name='shelf'")) == 1
    assert mlflow.genai.load_prompt("prompts:/shelf.hello@latest").version == 1


def test_a_major_version_another_name_or_no_name_may_break_a_contract(with_contract):
    agents.log_agent(with_contract("one"), registered_model_name="shelf")
    agents.log_agent(with_contract("unnamed", STRICTER))
    agents.log_agent(with_contract("other", STRICTER), registered_model_name="other")
    root = with_contract("two", STRICTER, ("version: 1.0.0", "version: 2.0.0"))
    assert agents.log_agent(root, registered_model_name="shelf").registered_model_version == 2
    # The newest counts: what was fine after the first version breaks the second.
    with pytest.raises(ContractError, match=r"version 2 of"):
        agents.log_agent(
            with_contract(
                "three",
                ("effect: write", "effect: irreversible"),
                ("version: 1.0.0", "version: 2.5.0"),
                ("idempotent: true", "idempotent: false"),
            ),
            registered_model_name="shelf",
        )


def test_an_earlier_version_nobody_can_read_is_a_warning_and_stops_nobody(with_contract):
    import mlflow

    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str]) -> list[str]:
            return model_input

    mlflow.pyfunc.log_model(name="other", python_model=Other(), registered_model_name="shelf")
    with pytest.warns(ContractsNotComparedWarning, match="the model is not an agent"):
        agents.log_agent(with_contract("one"), registered_model_name="shelf")
    client = mlflow.MlflowClient()
    folder = mlflow.artifacts.download_artifacts(
        client.get_model_version_download_uri("shelf", "2")
    )
    shutil.rmtree(folder)
    with pytest.warns(ContractsNotComparedWarning, match="'shelf'"):
        info = agents.log_agent(with_contract("two", STRICTER), registered_model_name="shelf")
    assert info.registered_model_version == 3


@pytest.mark.parametrize("rows", [1, 3])
def test_a_frame_of_requests_gets_a_list_of_answers_however_many_rows_it_has(saved, rows):
    """MLflow's `spark_udf` hands over frames of any length and takes a mapping for columns."""
    import mlflow
    import pandas as pd

    frame = pd.DataFrame({"input": [request()["input"]] * rows})
    answers = mlflow.pyfunc.load_model(str(saved(say("done")))).predict(frame)
    assert [each["output"][0]["content"][0]["text"] for each in answers] == ["done"] * rows
