"""All that people said, one row each, on a real tracking store."""

from __future__ import annotations

import json

import mlflow
from click.testing import CliRunner
from mlflow.entities import AssessmentSource

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.lifecycle import collect_remarks, correct_request, give_thumb
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS, name_person

HUMAN = AssessmentSource(source_type="HUMAN", source_id="rita")


def test_what_only_a_model_said_and_other_assessments_are_no_remarks(ask):
    trace = ask("hello")
    judge = AssessmentSource(source_type="LLM_JUDGE", source_id="model")
    mlflow.log_feedback(trace_id=trace, name="thumb", value=True, source=judge)
    mlflow.log_feedback(trace_id=trace, name="politeness", value=3, source=HUMAN)
    found = collect_remarks()
    assert found.empty
    assert tuple(found.columns) == REMARK_COLUMNS


def test_every_kind_is_a_row_with_who_when_and_which_trace(ask):
    began = utc_now()
    trace = ask("where is my card")
    give_thumb(trace, up=False, by="ann", comment="wrong, ask jo@example.org")
    correct_request(trace, by="bob", intent="card_arrival", answer="Call jo@example.org.")
    for value in ("approved", "approved", "edited"):
        mlflow.log_feedback(trace_id=trace, name="tool_call_review", value=value, source=HUMAN)
    found = collect_remarks()
    assert found[["kind", "value", "by"]].to_numpy().tolist() == [
        ["thumb", "down", "ann"],
        ["intent", "card_arrival", "bob"],
        ["answer", "Call <EMAIL>.", "bob"],
        ["review", "approved", "rita"],
        ["review", "approved", "rita"],
        ["review", "edited", "rita"],
    ]
    assert set(found["trace_id"]) == {trace}
    assert found["remark_id"].is_unique
    assert found["comment"][0] == "wrong, ask <EMAIL>"
    assert found["said_at"].min() >= began.replace(microsecond=0)
    (row, *_) = found.to_dict("records")
    assert (row["agent"], row["agent_digest"], row["text"]) == (
        "support", "sha256:aa", "where is my card",
    )  # fmt: skip
    assert (row["intent"], row["outcome"]) == ("guess", "answered")
    assert collect_remarks(agent="other").empty


def test_a_changed_mind_is_one_remark_and_another_person_s_another(ask):
    trace = ask("where is my card")
    give_thumb(trace, up=True, by="ann")
    give_thumb(trace, up=False, by="ann")
    mlflow.log_feedback(trace_id=trace, name="thumb", value=True, source=HUMAN)
    mlflow.log_feedback(trace_id=trace, name="thumb", value=False, source=HUMAN)
    assert sorted(collect_remarks()[["value", "by"]].to_numpy().tolist()) == [
        ["down", "ann"],
        ["down", "rita"],
    ]


def test_a_value_that_makes_no_sense_is_a_row_for_the_validation_to_name(ask):
    trace = ask("hello")
    mlflow.log_feedback(trace_id=trace, name="thumb", value="sideways", source=HUMAN)
    mlflow.log_feedback(trace_id=trace, name="intent", value=3, source=HUMAN)
    assert sorted(collect_remarks()["value"]) == ["3", "sideways"]


def test_a_person_whose_name_is_personal_data_is_a_digest_that_tells_people_apart(ask):
    trace = ask("hello")
    for name in ("jo@example.org", "al@example.org"):
        give_thumb(trace, up=True, by=name)
    names = set(collect_remarks()["by"])
    assert names == {name_person("jo@example.org"), name_person("al@example.org")}
    assert all(name.startswith("person-") for name in names)
    assert name_person(name_person("jo@example.org")) == name_person("jo@example.org")
    assert name_person("ann") == "ann"


def test_the_command_writes_what_the_pipeline_takes(ask, tmp_path):
    from mlflow_agent_plugin.interaction.cli import main
    from pipelines.checking import Checker
    from pipelines.feedback import read_feedback
    from pipelines.validate import check_remarks

    trace = ask("where is my card")
    give_thumb(trace, up=True, by="ann")
    correct_request(trace, by="jo@example.org", intent="card_arrival", comment="see 'below'\n,")
    mlflow.log_feedback(trace_id=trace, name="tool_call_review", value="edited", source=HUMAN)
    target = tmp_path / "said.csv"
    done = CliRunner().invoke(main, ["feedback", "remarks", "--out", str(target), "--json"])
    assert json.loads(done.stdout)["remarks"] == 3, done.output
    labels, remarks = read_feedback(target)
    assert labels[["text", "label"]].to_numpy().tolist() == [["where is my card", "card_arrival"]]
    assert labels["labelled_at"].notna().all()
    assert check_remarks(Checker(), remarks).failures == ()
