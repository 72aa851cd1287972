"""Thumbs, corrections and reviews as one labelled dataset, on a real tracking store."""

from __future__ import annotations

import json

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from mlflow_agent_plugin.entities import ANONYMOUS
from mlflow_agent_plugin.errors import DataError, NotFoundError
from mlflow_agent_plugin.lifecycle import (
    collect_feedback,
    collect_labels,
    correct_request,
    give_thumb,
)
from mlflow_agent_plugin.lifecycle.labels import FEEDBACK_COLUMNS


def test_without_a_word_from_people_the_dataset_is_empty_and_has_its_columns(ask):
    trace = ask("hello")
    judge = AssessmentSource(source_type="LLM_JUDGE", source_id="model")
    mlflow.log_feedback(trace_id=trace, name="thumb", value=True, source=judge)
    found = collect_feedback()
    assert found.empty
    assert tuple(found.columns) == FEEDBACK_COLUMNS


def test_thumbs_of_several_people_count_and_a_changed_mind_counts_once(ask):
    trace = ask("where is my card")
    give_thumb(trace, up=True, by="ann")
    give_thumb(trace, up=False, by="ann", comment="wrong, ask jo@example.org")
    give_thumb(trace, up=True, by="bob")
    (row,) = collect_feedback().to_dict("records")
    assert (row["thumbs_up"], row["thumbs_down"]) == (1, 1)
    assert row["comments"] == ["wrong, ask <EMAIL>"]
    assert row["intent"] == "guess"


def test_a_correction_is_a_label_for_the_retraining_and_the_last_one_of_a_person_counts(ask):
    trace = ask("where is my card")
    correct_request(trace, by="ann", intent="lost_card")
    correct_request(trace, by="ann", intent="card_arrival", answer="It was sent to jo@example.org.")
    assert collect_labels()[["text", "label"]].to_numpy().tolist() == [
        ["where is my card", "card_arrival"]
    ]
    (row,) = collect_feedback().to_dict("records")
    assert row["label"] == "card_arrival"
    assert row["expected_response"] == "It was sent to <EMAIL>."


def test_reviews_of_tool_calls_are_in_the_same_row(ask):
    trace = ask("refund me")
    human = AssessmentSource(source_type="HUMAN", source_id="rita")
    for value in ("rejected", "approved", "edited", "approved"):
        mlflow.log_feedback(trace_id=trace, name="tool_call_review", value=value, source=human)
    (row,) = collect_feedback(agent="support").to_dict("records")
    assert (row["approved"], row["rejected"], row["edited"]) == (2, 1, 1)
    assert collect_feedback(agent="other").empty


def test_who_speaks_for_a_tenant_reaches_no_other_tenant_s_requests(ask):
    trace = ask("where is my card")
    for attempt in (give_thumb, correct_request):
        said = {"up": True} if attempt is give_thumb else {"intent": "card_arrival"}
        with pytest.raises(NotFoundError, match="there is no such trace"):
            attempt(trace, by="eve", tenant="elsewhere", **said)
    assert collect_feedback().empty
    give_thumb(trace, up=True, by="ann", tenant=ANONYMOUS.tenant)
    assert len(collect_feedback()) == 1


def test_the_same_feedback_again_changes_nothing(ask):
    trace = ask("where is my card")

    def say():
        give_thumb(trace, up=True, by="ann", comment="fine")
        correct_request(trace, by="ann", intent="card_arrival", comment="it was that")
        return [a.assessment_id for a in mlflow.get_trace(trace).info.assessments]

    assert say() == say()
    assert collect_feedback()["comments"][0] == ["fine", "it was that"]


def test_what_cannot_be_commented_on_is_refused(ask, monkeypatch):
    trace = ask("hello")
    with mlflow.start_span("not an agent's") as span:
        pass
    for attempt in (
        lambda: give_thumb("tr-" + "0" * 32, up=True, by="ann"),
        lambda: give_thumb("nonsense", up=True, by="ann"),
        lambda: give_thumb(span.trace_id, up=True, by="ann"),
        lambda: give_thumb(trace, up=True, by=" "),
        lambda: correct_request(trace, by="ann"),
        lambda: correct_request(trace, by="ann", intent=" "),
    ):
        with pytest.raises((DataError, NotFoundError)):
            attempt()
    assert collect_feedback().empty


def test_the_commands_give_feedback_and_write_the_labels(ask, tmp_path):
    from click.testing import CliRunner

    from mlflow_agent_plugin.interaction.cli import main

    trace = ask("where is my card")
    said = ["feedback", "give", trace, "--thumb", "down", "--intent", "card_arrival", "--as", "ann"]
    done = CliRunner().invoke(main, said)
    assert done.exit_code == 0, done.output
    target = tmp_path / "labels.csv"
    done = CliRunner().invoke(main, ["feedback", "labels", "--out", str(target), "--json"])
    assert json.loads(done.stdout)["labels"] == 1
    assert "where is my card,card_arrival" in target.read_text()
    table = tmp_path / "feedback.csv"
    done = CliRunner().invoke(main, ["feedback", "table", "--out", str(table), "--json"])
    assert json.loads(done.stdout)["requests"] == 1
    assert "where is my card" in table.read_text()
    assert CliRunner().invoke(main, ["feedback", "give", trace, "--as", "ann"]).exit_code == 2


def test_what_is_most_worth_a_label_is_picked_labelled_and_kept(ask, tmp_path):
    import csv

    from click.testing import CliRunner

    from mlflow_agent_plugin.interaction.cli import main
    from mlflow_agent_plugin.observability import monitoring_table

    ask("where is my card")
    ask("hello")
    monitoring_table(path=tmp_path / "table")
    todo = tmp_path / "todo.csv"
    pick = ["feedback", "pick", str(tmp_path / "table"), "--out", str(todo), "--json"]
    assert json.loads(CliRunner().invoke(main, pick).stdout)["requests"] == 2
    rows = list(csv.DictReader(todo.open()))
    rows[0]["label"] = "greeting"
    with todo.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    keep = ["feedback", "import", str(todo), "--as", "ann", "--json"]
    for _ in range(2):
        done = CliRunner().invoke(main, keep)
        assert json.loads(done.stdout) == {"labels": 1, "empty": 1}, done.output
    assert collect_labels()["label"].tolist() == ["greeting"]
    assert json.loads(CliRunner().invoke(main, pick).stdout)["requests"] == 1
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    odd = ["feedback", "import", str(tmp_path / "odd.csv"), "--as", "ann"]
    assert CliRunner().invoke(main, odd).exit_code != 0
