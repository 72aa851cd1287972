"""Great Expectations stops bad data before anything is trained on it."""

import re
from contextlib import nullcontext
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS
from pipelines.checking import Checker
from pipelines.stage import Params, read_json
from pipelines.validate import check_remarks, check_requests, known_labels, validate

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


def check(frame, labels):
    done = check_requests(Checker(), frame, labels)
    return done.failures, done.expectations


def remarks(**changes):
    """Five remarks, one or two of each kind."""
    said = [("thumb", "up"), ("review", "approved"), ("review", "edited"), ("intent", "door"),
            ("answer", "It is the left one.")]  # fmt: skip
    frame = pd.DataFrame(
        {
            "remark_id": [f"a-{n}" for n in range(len(said))],
            "trace_id": "tr-" + "ab" * 16,
            "agent": "support",
            "agent_digest": "sha256:aa",
            "text": "which door",
            "intent": "window",
            "outcome": "answered",
            "kind": [kind for kind, _ in said],
            "value": [value for _, value in said],
            "by": "rita",
            "said_at": "2026-03-04 05:06:07.089000+00:00",
            "comment": "",
        }
    )
    for place, value in changes.items():
        column, _, row = place.rpartition("_")
        frame.loc[int(row), column] = value
    return frame[list(REMARK_COLUMNS)]


def names(failures):
    return [failure.expectation for failure in failures]


def test_good_data_fails_nothing():
    failures, count = check(dataset(), LABELS)
    assert failures == ()
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


def test_good_remarks_fail_nothing_and_nor_do_none():
    done = check_remarks(Checker(), remarks())
    assert done.failures == ()
    assert done.expectations == 19
    assert check_remarks(Checker(), remarks().iloc[:0]).failures == ()


@pytest.mark.parametrize(
    ("change", "expectation"),
    [
        ({"remark_id_1": ""}, "expect_column_values_to_not_be_null(remark_id)"),
        ({"trace_id_1": ""}, "expect_column_values_to_not_be_null(trace_id)"),
        ({"trace_id_1": "tr 1"}, "expect_column_values_to_match_regex(trace_id)"),
        ({"agent_1": ""}, "expect_column_values_to_not_be_null(agent)"),
        ({"kind_1": ""}, "expect_column_values_to_not_be_null(kind)"),
        ({"kind_1": "rumour"}, "expect_column_values_to_be_in_set(kind)"),
        ({"value_4": ""}, "expect_column_values_to_not_be_null(value)"),
        (
            {"value_0": "sideways"},
            "expect_column_values_to_be_in_set(value where kind == 'thumb')",
        ),
        ({"value_1": "yes"}, "expect_column_values_to_be_in_set(value where kind == 'review')"),
        ({"value_3": " door"}, "expect_column_values_to_match_regex(value where kind == 'intent')"),
        (
            {"value_4": "x" * 8001},
            "expect_column_value_lengths_to_be_between(value where kind == 'answer')",
        ),
        ({"text_3": ""}, "expect_column_values_to_not_be_null(text where kind == 'intent')"),
        ({"by_1": ""}, "expect_column_values_to_not_be_null(by)"),
        ({"said_at_1": ""}, "expect_column_values_to_not_be_null(said_at)"),
        (
            {"said_at_1": "1970-01-21 00:00:00+00:00"},
            "expect_column_values_to_match_regex(said_at)",
        ),
        ({"said_at_1": "yesterday"}, "expect_column_values_to_match_regex(said_at)"),
        ({"comment_1": "x" * 10001}, "expect_column_value_lengths_to_be_between(comment)"),
    ],
)
def test_one_bad_remark_fails_the_expectation_and_is_named(change, expectation):
    (failure,) = check_remarks(Checker(), remarks(**change)).failures
    assert failure.expectation == expectation
    (place,) = change
    assert [row[0] for row in failure.listed] == [place.rpartition("_")[2]]


def test_a_remark_that_is_there_twice_and_a_second_thumb_of_one_person_are_named():
    (failure,) = check_remarks(Checker(), remarks(remark_id_1="a-2")).failures
    assert failure.expectation == "expect_column_values_to_be_unique(remark_id)"
    assert failure.rows == 2
    twice = remarks(kind_4="thumb", value_4="down")
    (failure,) = check_remarks(Checker(), twice).failures
    assert failure.expectation == (
        "expect_compound_columns_to_be_unique(trace_id, kind, by where kind != 'review')"
    )
    assert [row[0] for row in failure.listed] == ["0", "4"]
    assert f"row 4 trace_id tr-{'ab' * 16} kind thumb by rita" in str(failure)


def test_another_set_of_columns_is_another_table():
    failures = check_remarks(Checker(), remarks().drop(columns="by")).failures
    assert "expect_table_columns_to_match_set" in names(failures)


def stage_params(tmp_path, frame, said=None):
    params = Params.model_validate(
        {"build": str(tmp_path / "build"), "agent": str(PROJECT / "agents" / "support")}
    )
    params.dataset.mkdir(parents=True)
    frame.to_csv(params.dataset / "requests.csv", index=False)
    (remarks() if said is None else said).to_csv(params.remarks, index=False)
    return params


def test_the_stage_stops_with_every_failed_expectation_and_writes_no_result(tmp_path):
    params = stage_params(tmp_path, dataset(text_3=""))
    with pytest.raises(DataError) as caught:
        validate(params)
    message = str(caught.value)
    assert "2 of 30 expectations failed; nothing was trained" in message
    assert "expect_column_values_to_be_in_set(category): 40 rows" in message
    assert "requests: expect_column_values_to_be_in_set(category)" in message
    assert "failed_remarks" not in message
    assert not params.result("validation").exists()


def known_dataset():
    return dataset().assign(category=known_labels(PROJECT / "agents" / "support")[:2] * 20)


def test_a_bad_remark_stops_the_stage_though_nothing_bad_would_be_trained_on(tmp_path):
    said = remarks(value_0="sideways, said jo@example.org", by_0="4111 1111 1111 1111")
    params = stage_params(tmp_path, known_dataset(), said)
    with pytest.raises(DataError, match=r"1 of 30 expectations failed; nothing was tr") as caught:
        validate(params)
    message = str(caught.value)
    assert (
        "remarks: expect_column_values_to_be_in_set(value where kind == 'thumb'): 1 row" in message
    )
    assert "remarks.csv" in message
    assert "requests.csv" not in message
    listed = (params.data_docs / "failed_remarks.csv").read_text().splitlines()
    assert listed[0] == "expectation,row,trace_id,kind,by,value,text"
    assert len(listed) == 2
    assert f"0,tr-{'ab' * 16},thumb" in listed[1]
    for text in (message, listed[1]):
        assert "sideways, said <EMAIL>" in text
        assert "example.org" not in text
        assert "4111" not in text
    assert not params.result("validation").exists()
    assert not params.result("remarks_validation").exists()


def test_both_tables_are_in_one_report_and_have_a_result_each(tmp_path):
    params = stage_params(tmp_path, known_dataset())
    assert validate(params) == (
        "19 expectations hold on 5 remarks and 11 expectations hold on 40 requests"
    )
    index = (params.data_docs / "index.html").read_text()
    assert "remarks" in index
    assert "requests" in index
    pages = {path.name for path in params.data_docs.rglob("*.html")}
    assert {"remarks.html", "requests.html"} <= pages
    assert read_json(params.result("remarks_validation"))["rows"] == 5
    trained_on = params.result("validation").read_bytes()
    remarks(value_0="down").iloc[:2].to_csv(params.remarks, index=False)
    validate(params)
    assert params.result("validation").read_bytes() == trained_on


def test_labels_are_those_the_playbook_has_a_plan_for():
    labels = known_labels(PROJECT / "agents" / "support")
    assert "out_of_scope" in labels
    assert "lost_or_stolen_card" in labels


def test_a_dataset_that_is_missing_is_one_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        validate(Params.model_validate({"build": str(tmp_path)}))


def test_data_docs_name_what_failed_and_hold_no_text_whatever_becomes_of_the_data(tmp_path):
    canary = "my very secret question jo@example.org"
    known = known_dataset()
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


class Loads(HTMLParser):
    """What a page would load by itself, and the policy it has."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.policies = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(given["content"])
        if tag in {"script", "link", "iframe", "object", "embed"}:
            self.loads.append(tag)
        self.loads += [name for name in given if name in {"src", "srcset", "background"}]
        self.loads += [name for name in given if name.startswith("on")]


@pytest.mark.parametrize("failing", [False, True])
def test_data_docs_need_nothing_from_anywhere(tmp_path, failing):
    data = known_dataset()
    if failing:
        data.loc[3, "category"] = "nope <b>&"
    params = stage_params(tmp_path, data)
    with pytest.raises(DataError) if failing else nullcontext():
        validate(params)
    pages = sorted(params.data_docs.rglob("*.html"))
    assert len(pages) >= 5  # the first one, and two for each suite
    for path in pages:
        text = path.read_text()
        found = Loads(text)
        assert found.loads == [], path
        assert found.policies == ["default-src 'none'; style-src 'unsafe-inline'"], path
        assert "@import" not in text
        assert "url(" not in text
    assert not (params.data_docs / "static").exists()
    index = (params.data_docs / "index.html").read_text()
    assert ("1 of 30 expectations failed; nothing was trained" in index) == failing
    assert ("All 30 expectations hold" in index) != failing
    for link in re.findall('href="([^"]+)"', index):
        assert (params.data_docs / link).is_file()


def test_the_first_page_shows_every_expectation_why_and_what_came_of_it(tmp_path):
    checker = Checker(tmp_path / "docs")
    check_remarks(checker, remarks())
    done = check_requests(checker, dataset(category_3="<b>roof"), LABELS)
    first = (tmp_path / "docs" / "index.html").read_text()
    assert "1 of 30 expectations failed; nothing was trained." in first
    assert first.count("holds</td>") == 29
    assert first.count("failed</td>") == 1
    for each in done.expected:
        assert escape(each.name) in first
        assert each.why
        assert escape(each.why) in first
    assert "roof" not in first
    assert "one person has one opinion of one request" in first
