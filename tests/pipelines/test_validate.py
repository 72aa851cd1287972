"""Great Expectations stops bad data before anything is trained on it."""

from pathlib import Path

import pandas as pd
import pytest

from mlflow_agent_plugin.errors import DataError
from pipelines.stage import Params
from pipelines.validate import check, known_labels, validate

PROJECT = Path(__file__).resolve().parents[2]
LABELS = ["door", "window"]


def dataset(**changes):
    frame = pd.DataFrame(
        {
            "text": [f"question {chr(97 + n % 26)}{n}" for n in range(40)],
            "category": LABELS * 20,
            "source": "base",
            "split": "train",
            "row": [str(n) for n in range(40)],
        }
    )
    for place, value in changes.items():
        column, _, row = place.rpartition("_")
        frame.loc[int(row), column] = value
    return frame


def names(failures):
    return [failure.expectation for failure in failures]


def test_good_data_fails_nothing():
    failures, count = check(dataset(), LABELS)
    assert failures == []
    assert count == 11


@pytest.mark.parametrize(
    ("change", "expectation"),
    [
        ({"text_3": ""}, "expect_column_values_to_not_be_null(text)"),
        ({"text_3": "x"}, "expect_column_value_lengths_to_be_between(text)"),
        ({"text_3": "?? 123"}, "expect_column_values_to_match_regex(text)"),
        ({"category_3": ""}, "expect_column_values_to_not_be_null(category)"),
        ({"category_3": "roof"}, "expect_column_values_to_be_in_set(category)"),
        ({"source_3": "rumour"}, "expect_column_values_to_be_in_set(source)"),
        ({"split_3": "test"}, "expect_column_values_to_be_in_set(split)"),
    ],
)
def test_one_bad_row_fails_the_expectation_and_is_named(change, expectation):
    failures, _ = check(dataset(**change), LABELS)
    assert names(failures) == [expectation]
    assert failures[0].rows == 1
    assert "row 3" in failures[0].examples[0]


def test_whole_tables_are_judged_too():
    assert names(check(dataset().head(10), LABELS)[0]) == ["expect_table_row_count_to_be_between"]
    one = dataset()
    one["category"] = "door"
    assert names(check(one, LABELS)[0]) == [
        "expect_column_unique_value_count_to_be_between(category)"
    ]
    flood = dataset()
    flood["text"] = "same question"
    assert names(check(flood, LABELS)[0]) == [
        "expect_column_proportion_of_unique_values_to_be_between(text)"
    ]


def test_a_missing_column_is_a_failure_and_no_stack_trace():
    failures, _ = check(dataset().drop(columns="category"), LABELS)
    assert "expect_table_columns_to_match_set" in names(failures)
    assert any(failure.error for failure in failures)


def test_an_empty_table_fails():
    assert check(dataset().iloc[:0], LABELS)[0]


def test_values_in_the_message_are_masked_and_cut():
    long = "write to jo@example.org about 4111 1111 1111 1111 " * 9
    (failure,) = check(dataset(text_3=long, category_3="nope@example.org"), LABELS)[0]
    assert "example.org" not in str(failure)
    assert "4111" not in str(failure)
    assert "<EMAIL>" in str(failure)
    assert len(failure.examples[0]) < 200


def stage_params(tmp_path, frame):
    params = Params.model_validate(
        {"build": str(tmp_path / "build"), "agent": str(PROJECT / "agents" / "support")}
    )
    params.dataset.mkdir(parents=True)
    frame.to_csv(params.dataset / "requests.csv", index=False)
    return params


def test_the_stage_stops_with_every_failed_expectation_and_writes_no_result(tmp_path):
    params = stage_params(tmp_path, dataset(text_3=""))
    with pytest.raises(DataError) as caught:
        validate(params)
    message = str(caught.value)
    assert "2 of 11 expectations failed; nothing was trained" in message
    assert "expect_column_values_to_be_in_set(category): 40 rows" in message
    assert not params.result("validation").exists()


def test_labels_are_those_the_playbook_has_a_plan_for():
    labels = known_labels(PROJECT / "agents" / "support")
    assert "out_of_scope" in labels
    assert "lost_or_stolen_card" in labels


def test_a_dataset_that_is_missing_is_one_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        validate(Params.model_validate({"build": str(tmp_path)}))


def test_data_docs_name_what_failed_and_hold_no_text_whatever_becomes_of_the_data(tmp_path):
    canary = "my very secret question jo@example.org"
    known = dataset().assign(category=known_labels(PROJECT / "agents" / "support")[:2] * 20)
    bad = known.copy()
    bad.loc[3, ["text", "category"]] = canary, "nope"
    bad.loc[4, "category"] = "nope"
    params = stage_params(tmp_path, bad)
    with pytest.raises(DataError, match=r"failed_rows\.csv"):
        validate(params)
    docs = params.data_docs
    pages = {path: path.read_text() for path in docs.rglob("*.html")}
    assert (docs / "index.html") in pages
    assert any("must belong to this set" in page for page in pages.values())
    assert not any("secret question" in page for page in pages.values())
    rows = (docs / "failed_rows.csv").read_text().splitlines()
    assert rows[0] == "expectation,source,row,value,text"
    assert len(rows) == 3
    assert "my very secret question <EMAIL>" in rows[1]
    known.to_csv(params.dataset / "requests.csv", index=False)
    validate(params)
    assert len((docs / "failed_rows.csv").read_text().splitlines()) == 1
