"""Labels from feedback, on a real tracking store."""

from datetime import timedelta

import mlflow
from mlflow.entities import AssessmentSource

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.lifecycle.labels import (
    LABEL_COLUMNS,
    collect_labels,
    write_labels,
)

HUMAN = AssessmentSource(source_type="HUMAN", source_id="rita")
JUDGE = AssessmentSource(source_type="LLM_JUDGE", source_id="model")


def test_without_labels_the_frame_is_empty_and_has_its_columns(ask):
    ask("hello")
    found = collect_labels()
    assert found.empty
    assert tuple(found.columns) == LABEL_COLUMNS


def test_the_newest_label_of_a_person_counts_and_its_text_is_masked(ask):
    trace = ask("my mail is jo@example.org")
    mlflow.log_expectation(trace_id=trace, name="intent", value="old", source=HUMAN)
    mlflow.log_feedback(trace_id=trace, name="intent", value="edit_details", source=HUMAN)
    found = collect_labels()
    assert found[["text", "label", "trace_id"]].to_numpy().tolist() == [
        ["my mail is <EMAIL>", "edit_details", trace]
    ]


def test_what_a_model_says_and_what_is_no_label_do_not_count(ask):
    trace = ask("hello")
    mlflow.log_feedback(trace_id=trace, name="intent", value="greeting", source=JUDGE)
    mlflow.log_feedback(trace_id=trace, name="thumbs", value="up", source=HUMAN)
    mlflow.log_feedback(trace_id=trace, name="intent", value=3, source=HUMAN)
    with mlflow.start_span("no request") as other:
        pass
    mlflow.log_expectation(trace_id=other.trace_id, name="intent", value="x", source=HUMAN)
    assert collect_labels().empty


def test_a_label_counts_as_new_by_when_it_was_given_not_by_when_the_request_came(ask):
    early, late, never = ask("asked early"), ask("asked late"), ask("asked and left")
    mlflow.log_expectation(trace_id=early, name="intent", value="a", source=HUMAN)
    between = collect_labels()["labelled_at"].max() + timedelta(milliseconds=1)
    while utc_now() <= between:
        pass
    mlflow.log_expectation(trace_id=late, name="intent", value="b", source=HUMAN)
    assert collect_labels(given_since=between)["trace_id"].tolist() == [late]
    assert collect_labels(since=between, given_since=between).empty
    mlflow.log_feedback(trace_id=early, name="intent", value="c", source=HUMAN)
    assert set(collect_labels(given_since=between)["trace_id"]) == {early, late}
    assert never not in set(collect_labels()["trace_id"])


def test_labels_can_be_asked_for_one_agent_and_written(ask, tmp_path):
    for agent in ("support", "triage"):
        trace = ask("hello", agent=agent)
        mlflow.log_expectation(trace_id=trace, name="intent", value="greeting", source=HUMAN)
    found = collect_labels(agent="support")
    assert len(found) == 1
    path = write_labels(found, tmp_path / "deep" / "labels.csv")
    assert path.read_text().splitlines()[0] == "text,label,trace_id,labelled_at"
