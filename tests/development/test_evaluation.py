"""`evaluate` against a real MLflow: run, artifacts, metrics, evidence, comparison."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from helpers.lamp_agent import SCRIPTS, call, say, write_lamps

from mlflow_agent_plugin.development import Scenario, Suite, compare, evaluate, load_results
from mlflow_agent_plugin.development.results import show_metric
from mlflow_agent_plugin.errors import EvidenceError, SuiteError
from mlflow_agent_plugin.trust.evidence import Metric, MetricKind

SUITE = """
apiVersion: mlflow-agents/v1
name: tiny
agent: lamps
scenarios:
  - id: look
    turns: [{user: look}]
    tags: [easy]
    expect: {intent: look, outcomes: [answered], calls_required: [{tool: look}]}
  - id: switch
    turns: [{user: switch it on}]
    expect: {intent: switch, outcomes: [acted], calls_required: [{tool: switch}]}
  - id: switch-never
    turns: [{user: switch off}]
    expect: {outcomes: [answered], calls_forbidden: [{tool: switch}]}
"""


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def run(model, suites, **options):
    return evaluate(str(model), suites, workers=0, progress=False, **options)


def test_nothing_is_written_when_the_suite_does_not_fit(lamps_dir, suite_file):
    import mlflow

    suite_file.write_text(SUITE.replace("agent: lamps", "agent: other"))
    with pytest.raises(SuiteError, match="the suite is for agent 'other', not 'lamps'"):
        run(lamps_dir, [suite_file])
    suite_file.write_text(SUITE.replace("{tool: look}", "{tool: lok}"))
    with pytest.raises(SuiteError, match=r"tiny.yaml:9.*no tool 'lok'. Did you mean 'look'"):
        run(lamps_dir, [suite_file])
    for nothing in ([], str(suite_file)):
        with pytest.raises(SuiteError, match="at least one suite"):
            run(lamps_dir, nothing)
    with pytest.raises(SuiteError, match="two suites are called 'tiny'"):
        run(lamps_dir, [suite_file, suite_file])
    assert mlflow.search_runs(search_all_experiments=True).empty


def test_a_baseline_without_results_of_the_suite_is_an_error(lamps_dir, suite_file):
    other = Suite(
        name="other",
        scenarios=(
            Scenario.model_validate(
                {"id": "a", "turns": [{"user": "look"}], "expect": {"outcomes": ["answered"]}}
            ),
        ),
    )
    first = run(lamps_dir, [other])
    with pytest.raises(EvidenceError, match="no results of suite 'tiny'"):
        run(lamps_dir, [suite_file], baseline=first)


def test_an_evaluation_is_a_run_with_metrics_table_evidence_and_reference(lamps_dir, suite_file):
    import mlflow

    from mlflow_agent_plugin.observability.schema import read_rows
    from mlflow_agent_plugin.trust import KeyStore
    from mlflow_agent_plugin.trust.evidence import check_results, read_evidence, verify_evidence

    result = run(lamps_dir, [suite_file], experiment="tests")
    stored = mlflow.get_run(result.run_id)
    assert stored.info.status == "FINISHED"
    assert mlflow.get_experiment(stored.info.experiment_id).name == "tests"
    assert stored.data.metrics["tiny/task_success"] == pytest.approx(2 / 3)
    assert stored.data.metrics["tiny/task_success_low"] == pytest.approx(0.2077, abs=1e-4)
    assert stored.data.metrics["tiny/intent_accuracy"] == 1.0
    assert stored.data.metrics["tiny/unsafe_calls"] == 1
    assert stored.data.metrics == pytest.approx(result.metrics)
    assert stored.inputs.dataset_inputs[0].dataset.name == "tiny"
    folder = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="evaluation")
    tiny = Path(folder) / "tiny"
    envelope = json.loads((tiny / "evidence.dsse.json").read_text())
    evidence = read_evidence(verify_evidence(envelope, KeyStore().trusted_keys()))
    rows = check_results(evidence, (tiny / "results.jsonl").read_bytes())
    assert evidence.agent_digest == result.digest
    assert evidence.suite_digest == result.suites["tiny"].digest
    assert evidence.run_id == result.run_id
    assert tuple(rows) == result.suites["tiny"].rows
    table = mlflow.MlflowClient().load_table(
        result.experiment_id, "evaluation/tiny/cases.json", run_ids=[result.run_id]
    )
    assert list(table["case"]) == ["look", "switch", "switch-never"]
    html = (tiny / "report.html").read_text()
    assert "Unsafe cases" in html
    assert "data:image/png;base64" in html
    assert "http" not in html.replace("http-equiv", "")
    reference = read_rows(
        mlflow.artifacts.download_artifacts(
            run_id=result.run_id, artifact_path="monitoring/reference.parquet"
        )
    )
    assert sorted(reference["trace_id"]) == ["tiny/look/0", "tiny/switch-never/0", "tiny/switch/0"]
    assert load_results(result.run_id, "tiny") == rows


def test_the_report_shows_hostile_text_as_text(lamps_dir, tmp_path):
    import mlflow

    suite = Suite(
        name="hostile",
        scenarios=(
            Scenario.model_validate(
                {
                    "id": "a",
                    "turns": [{"user": "look <script>alert(1)</script>"}],
                    "expect": {"outcomes": ["acted"], "reply": {"contains": ["<b>"]}},
                }
            ),
        ),
    )
    result = run(lamps_dir, [suite])
    path = mlflow.artifacts.download_artifacts(
        run_id=result.run_id, artifact_path="evaluation/hostile/report.html"
    )
    text = Path(path).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_views_of_a_result_agree(lamps_dir, suite_file):
    from rich.console import Console

    result = run(lamps_dir, [suite_file])
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(result.to_table())
    text = console.export_text()
    assert "66.7%" in text
    assert "66.7%" in result._repr_html_()
    assert "66.7%" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["suites"]["tiny"]["cases"] == 3
    assert list(result.suites["tiny"].to_frame()["case_id"]) == ["look", "switch", "switch-never"]
    assert [row.case_id for row in result.suites["tiny"].failed] == ["switch-never"]


def test_a_candidate_is_compared_with_the_baseline_case_by_case(lamps_dir, suite_file, tmp_path):
    import mlflow

    scripts = [{"when": "^switch off", "replies": [call("look", "desk"), say("Off.")]}, *SCRIPTS]
    better = write_lamps(tmp_path / "better", scripts)
    incumbent = run(lamps_dir, [suite_file])
    candidate = run(better, [suite_file], baseline=incumbent)
    comparison = candidate.suites["tiny"].comparison
    assert comparison.fixed == ("switch-never",)
    assert comparison.broken == ()
    assert comparison.rates["task_success"].verdict.difference.difference == pytest.approx(1 / 3)
    assert not comparison.not_worse  # three cases prove nothing
    metrics = mlflow.get_run(candidate.run_id).data.metrics
    assert metrics["tiny/task_success_difference"] == pytest.approx(1 / 3)
    assert "task_success" in str(comparison)
    assert "switch" in json.dumps(comparison.to_dict())
    by_run_id = run(better, [suite_file], baseline=incumbent.run_id)
    assert by_run_id.suites["tiny"].comparison == comparison


def test_results_of_different_suites_are_not_compared(lamps_dir, suite_file):
    rows = list(run(lamps_dir, [suite_file]).suites["tiny"].rows)
    with pytest.raises(SuiteError, match="cannot be compared"):
        compare(rows, [row.model_copy(update={"suite": "other"}) for row in rows])
    with pytest.raises(SuiteError, match="no case in common"):
        compare(rows[:1], rows[1:])
    with pytest.raises(SuiteError, match="no suite"):
        compare([], [])


def test_evaluating_again_gives_the_same_bytes(lamps_dir, suite_file):
    first, second = run(lamps_dir, [suite_file]), run(lamps_dir, [suite_file])
    assert first.run_id != second.run_id
    assert first.suites["tiny"].results_digest == second.suites["tiny"].results_digest


def test_a_sample_has_a_digest_of_its_own(lamps_dir, suite_file):
    whole = run(lamps_dir, [suite_file]).suites["tiny"]
    part = run(lamps_dir, [suite_file], limit=2, seed=3).suites["tiny"]
    assert len(part.rows) == 2
    assert part.digest != whole.digest
    with pytest.raises(SuiteError, match="limit must be at least 1"):
        run(lamps_dir, [suite_file], limit=0)


def test_an_evaluation_that_fails_marks_its_run_and_keeps_its_cases(lamps_dir, suite_file):
    import mlflow

    def fail(_name, done, _total):
        if done == 2:
            raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="coffee"):
        evaluate(str(lamps_dir), [suite_file], workers=0, progress=fail)
    runs = mlflow.search_runs(search_all_experiments=True)
    assert list(runs["status"]) == ["FAILED"]
    assert run(lamps_dir, [suite_file]).suites["tiny"].resumed == 2


def test_a_registered_version_gets_its_evidence_submitted(lamps_dir, suite_file):
    import mlflow

    from mlflow_agent_plugin.core import log_agent

    log_agent(lamps_dir, registered_model_name="lamps", register_prompts=False)
    result = run("models:/lamps/1", [suite_file])
    version = mlflow.MlflowClient().get_model_version("lamps", "1")
    assert result.submitted == "lamps/1"
    assert version.tags["agent.evidence"] == result.run_id
    logged = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key for metric in logged.metrics} >= {"tiny/task_success"}
    quiet = run("models:/lamps/1", [suite_file], submit=False)
    assert quiet.submitted is None
    version = mlflow.MlflowClient().get_model_version("lamps", "1")
    assert version.tags["agent.evidence"] == result.run_id


def test_an_evaluation_inside_a_run_becomes_its_child(lamps_dir, suite_file):
    import mlflow

    with mlflow.start_run() as parent:
        result = run(lamps_dir, [suite_file])
        assert mlflow.active_run().info.run_id == parent.info.run_id
    tags = mlflow.get_run(result.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id


def test_repeated_runs_show_how_much_results_depend_on_the_seed(lamps_dir):
    import mlflow

    cases = [
        Scenario.model_validate(
            {
                "id": f"c{n}",
                "turns": [{"user": "switch"}],
                "faults": [{"tool": "switch", "kind": "partial"}],
                "expect": {"calls_required": [{"tool": "switch"}]},
            }
        )
        for n in range(12)
    ]
    suite = Suite(name="faulty", scenarios=tuple(cases))
    result = run(lamps_dir, [suite], repeats=3).suites["faulty"]
    assert result.stability.success.runs == 3
    assert result.stability.success.cases == 12
    assert result.stability.flaky
    assert result.stability.success.between_runs > 0
    assert "flaky" in str(result.stability)
    first = run(lamps_dir, [suite])
    assert first.suites["faulty"].results_digest == result.results_digest
    assert "faulty/task_success_standard_error" not in mlflow.get_run(first.run_id).data.metrics
    with pytest.raises(SuiteError, match="repeats must be at least 1"):
        run(lamps_dir, [suite], repeats=0)


def test_a_suite_can_be_seen_as_an_mlflow_dataset(suite_file):
    from mlflow_agent_plugin.development import load_suite, register_suite

    suite = load_suite(suite_file)
    dataset = register_suite(suite)
    again = register_suite(suite)
    assert again.dataset_id == dataset.dataset_id
    frame = again.to_df()
    assert len(frame) == 3
    assert sorted(inputs["case"] for inputs in frame["inputs"]) == [
        "look",
        "switch",
        "switch-never",
    ]
    assert again.tags["agent.suite_digest"] == suite.digest


def test_a_file_store_without_datasets_says_so(suite_file, tmp_path, monkeypatch):
    import mlflow

    from mlflow_agent_plugin.development import load_suite, register_suite

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    with pytest.raises(SuiteError, match="cannot be registered as a dataset"):
        register_suite(load_suite(suite_file))


@pytest.mark.parametrize(
    ("name", "metric", "shown"),
    [
        ("intent_accuracy", Metric(0.0, 0.0, 1.0, 0, MetricKind.RATE, 0), ("nothing to judge", "")),
        ("task_success", Metric(0.5, 0.2, 0.8, 4, MetricKind.RATE, 2), ("50.0%", "[20.0%, 80.0%]")),
        (
            "tool_call_recall",
            Metric(0.9, 0.7, 1.1, 9, MetricKind.MEAN),
            ("90.0%", "[70.0%, 100.0%]"),
        ),
        (
            "mean_input_tokens",
            Metric(2390.4, -5.0, 4000.0, 9, MetricKind.MEAN),
            ("2,390", "[0, 4,000]"),
        ),
        ("mean_steps", Metric(7.0, None, None, 1, MetricKind.MEAN), ("7", "")),
        ("unsafe_calls", Metric(2.0, 2.0, 2.0, 3, MetricKind.COUNT), ("2", "")),
    ],
)
def test_a_metric_is_shown_within_what_is_possible(name, metric, shown):
    assert show_metric(name, metric) == shown
