"""Base data and feedback become one dataset."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.errors import ConfigError, DataError
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS
from pipelines.feedback import read_feedback
from pipelines.ingest import COLUMNS, combine, ingest, target
from pipelines.stage import Params, read_json, read_params


def base(*rows):
    return pd.DataFrame(list(rows), columns=["text", "category"])


def given_labels(*rows):
    frame = pd.DataFrame(list(rows), columns=["text", "label", "labelled_at"])
    frame["labelled_at"] = pd.to_datetime(frame["labelled_at"], utc=True)
    frame["row"] = range(len(frame))
    return frame


NONE = given_labels()


def join(base_rows, feedback=NONE, tests=None, share=0.0):
    tests = base() if tests is None else tests
    return combine(base_rows, tests, feedback, holdout_share=share)


def pairs(frame):
    return set(frame[["text", "category"]].itertuples(index=False, name=None))


def test_without_feedback_the_base_is_the_dataset():
    found = join(base(("a b", "x"), ("c d", "y")))
    assert tuple(found.columns) == COLUMNS
    assert pairs(found) == {("a b", "x"), ("c d", "y")}


def test_feedback_wins_over_the_base_and_the_newer_label_over_the_older():
    feedback = given_labels(
        ("Where is it?", "new", "2026-02-01"),
        ("where is it", "old", "2026-01-01"),
        ("another", "z", None),
    )
    found = join(base(("where is IT", "base"), ("kept", "k")), feedback)
    assert pairs(found) == {("Where is it?", "new"), ("another", "z"), ("kept", "k")}
    assert found.attrs["relabelled"] == 1


def test_texts_of_the_test_split_are_left_out_wherever_they_come_from():
    tests = base(("Secret query", "x"))
    found = join(
        base(("secret QUERY", "x"), ("fine", "x")),
        given_labels(("secret query!", "x", "2026-01-01"), ("new", "x", "2026-01-01")),
        tests,
    )
    assert pairs(found) == {("fine", "x"), ("new", "x")}
    assert found.attrs["in_test_split"] == 2


def test_texts_are_masked_before_they_are_kept():
    found = join(base(("kept", "k")), given_labels(("I am jo@example.org", "x", "2026-01-01")))
    assert ("I am <EMAIL>", "x") in pairs(found)


def test_bad_rows_are_passed_on_and_not_repaired():
    feedback = given_labels(("", "x", None), ("", "y", None), ("text", "", None))
    found = join(base(("kept", "k")), feedback)
    assert len(found) == 4
    assert list(found["row"]) == [0, 0, 1, 2]


TEXTS = st.lists(st.text("abcdefgh ", min_size=1, max_size=12), max_size=30)


@given(TEXTS, TEXTS, TEXTS, st.floats(0, 0.9))
def test_nothing_is_both_trained_and_tested_on(base_texts, feedback_texts, test_texts, share):
    def key(text):
        return " ".join(text.split())

    found = join(
        base(*[(text, "x") for text in base_texts]),
        given_labels(*[(text, "y", None) for text in feedback_texts]),
        base(*[(text, "x") for text in test_texts]),
        share,
    )
    kept = {
        split: {key(t) for t in found.loc[found["split"] == split, "text"]} - {""}
        for split in ("train", "holdout")
    }
    assert not kept["train"] & kept["holdout"]
    assert not (kept["train"] | kept["holdout"]) & {key(text) for text in test_texts}


def test_the_same_request_is_always_on_the_same_side():
    feedback = given_labels(*[(f"question number {n}", "x", None) for n in range(400)])
    first = join(base(), feedback, share=0.25).set_index("text")["split"]
    again = join(base(), feedback.sample(frac=1, random_state=1), share=0.25)
    assert (again.set_index("text")["split"].loc[first.index] == first).all()
    assert 60 < (first == "holdout").sum() < 140


def write(folder, name, rows):
    pd.DataFrame(rows, columns=["text", "category"]).to_csv(folder / name, index=False)


@pytest.fixture
def params(tmp_path):
    write(tmp_path, "train.csv", [("open door", "door"), ("my window", "window"), ("bell", "bell")])
    write(tmp_path, "test.csv", [("the door", "door"), ("the bell", "bell")])
    feedback = tmp_path / "feedback.csv"
    feedback.write_text("text,label\nring it,bell\n")
    return Params.model_validate(
        {
            "build": str(tmp_path / "build"),
            "ingest": {
                "base": str(tmp_path),
                "feedback": str(feedback),
                "exclude_intents": ["window"],
                "holdout_share": 0,
            },
        }
    )


def test_the_stage_writes_what_the_training_reads_and_says_what_it_did(params):
    line = ingest(params)
    assert "2 base/train, 1 feedback/train" in line
    assert (params.dataset / "train.csv").read_text() == (
        "text,category\nopen door,door\nbell,bell\nring it,bell\n"
    )
    assert (params.dataset / "test.csv").read_text() == (
        "text,category\nthe door,door\nthe bell,bell\n"
    )
    report = read_json(params.dataset / "ingest.json")
    assert (report["train"], report["holdout"], report["intents"]) == (3, 0, 2)


def test_another_server_is_another_target_and_no_address_is_written(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:secret@host/db")
    first = target()
    assert "secret" not in json.dumps(first)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert target() != first


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"", "neither CSV"),
        (b"\xff\xfe\x00", "neither CSV"),
        (b"words\nhello\n", "no column text"),
        (b"text\nhello\n", "no column label"),
        (b'text,label\n"open\n', "neither CSV"),
    ],
)
def test_feedback_that_is_none_is_refused_with_the_file_named(tmp_path, content, problem):
    path = tmp_path / "feedback.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_feedback(path)
    assert "feedback.csv" in str(caught.value)


def test_feedback_may_be_parquet_with_missing_values(tmp_path):
    path = tmp_path / "feedback.parquet"
    pd.DataFrame({"text": ["a", None], "label": [None, "b"]}).to_parquet(path)
    labels, remarks = read_feedback(path)
    assert labels[["text", "label"]].to_numpy().tolist() == [["a", ""], ["", "b"]]
    assert remarks.empty


REMARKS = """\
remark_id,trace_id,agent,agent_digest,text,intent,outcome,kind,value,by,said_at,comment,more
a-1,tr-1,support,sha256:aa,ring it,window,answered,thumb,down,ann,2026-01-01T00:00:00Z,no,x
a-2,tr-1,support,sha256:aa,ring it,window,answered,intent,door,jo@example.org,2026-01-02T00:00:00Z,,x
a-3,tr-1,support,sha256:aa,ring it,window,answered,intent,bell,ann,2026-01-03T00:00:00Z,mail jo@example.org,x
a-4,tr-2,support,sha256:aa,open,window,answered,answer,Ask jo@example.org,ann,,,x
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_all_that_people_said_the_corrections_are_labels_and_the_rest_is_kept_beside(
    params, tmp_path, kind
):
    path = tmp_path / "said.csv"
    path.write_text(REMARKS)
    if kind == "parquet":
        frame = pd.read_csv(path)
        frame["said_at"] = pd.to_datetime(frame["said_at"])
        path = tmp_path / "said.parquet"
        frame.to_parquet(path, index=False)
    given = params.ingest.model_copy(update={"feedback": str(path)})
    ingest(params.model_copy(update={"ingest": given}))
    assert (params.dataset / "train.csv").read_text().splitlines()[-1] == "ring it,bell"
    kept = pd.read_csv(params.remarks, dtype=str, keep_default_na=False)
    assert tuple(kept.columns) == REMARK_COLUMNS
    assert kept["kind"].tolist() == ["thumb", "intent", "intent", "answer"]
    assert kept["said_at"][3] == ""
    assert kept["said_at"][0].startswith("2026-01-01")
    assert kept["comment"][2] == "mail <EMAIL>"
    assert kept["value"][3] == "Ask <EMAIL>"
    assert kept["by"][1].startswith("person-")
    assert "example.org" not in params.remarks.read_text()


def test_remarks_that_lack_a_column_are_refused_with_it_named(tmp_path):
    path = tmp_path / "said.csv"
    path.write_text("kind,value,text\nthumb,up,hello\n")
    with pytest.raises(DataError, match="no column remark_id"):
        read_feedback(path)


def test_a_file_of_labels_makes_an_empty_table_of_remarks(params):
    ingest(params)
    assert params.remarks.read_text().splitlines() == [",".join(REMARK_COLUMNS)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("colour: red\n", "colour"),
        ("ingest: {holdout_share: 1}\n", "holdout_share"),
        ("evaluate: {workers: 0}\n", "workers"),
    ],
)
def test_malformed_parameters_are_one_error_with_file_and_field(tmp_path, text, problem):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_params(path)
    assert "params.yaml" in str(caught.value)


def test_the_result_of_a_stage_that_did_not_run_is_missed_with_a_hint(tmp_path):
    from mlflow_agent_plugin.errors import PipelineError

    with pytest.raises(PipelineError, match="dvc repro"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PipelineError):
        read_json(tmp_path / "list.json")
