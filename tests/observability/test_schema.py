"""The row: made from a reply, carried by a trace, read back the same."""

import json
from datetime import datetime, timedelta, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.schema import (
    COLUMN_NAMES,
    MAX_SUMMARY_CHARS,
    MAX_TEXT_CHARS,
    hash_user,
    read_rows,
    row_from_summary,
    rows_to_arrow,
    summary_from_row,
    write_reference,
)


def test_a_row_counts_what_became_of_each_call_and_hides_who_asked(row):
    made = row()
    assert set(made) == set(COLUMN_NAMES)
    assert made["tools"] == ["freeze_card", "refund"]
    assert (made["calls"], made["executed"], made["denied"]) == (2, 1, 1)
    assert "alice" not in str(made)


@given(text=st.text(max_size=9000), tools=st.lists(st.text(max_size=300), max_size=60))
def test_a_summary_always_fits_mlflow_and_reads_back(text, tools):
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    made = dict.fromkeys(COLUMN_NAMES) | {
        "trace_id": "tr-1",
        "event_time": moment,
        "agent": "a",
        "agent_digest": "d",
        "session_id": "s",
        "tenant": "t",
        "user_hash": "u",
        "text": text[:MAX_TEXT_CHARS],
        "outcome": "answered",
        "tools": tools,
        "calls": len(tools),
    }
    summary = summary_from_row(made)
    assert len(summary) <= MAX_SUMMARY_CHARS
    back = row_from_summary(summary, trace_id="tr-1")
    assert back["event_time"] == moment
    assert back["calls"] == len(tools)
    assert rows_to_arrow([back]).num_rows == 1


def test_the_event_time_is_kept_in_utc_and_needs_a_time_zone(row):
    there = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    summary = summary_from_row(row(event_time=there))
    back = row_from_summary(summary, trace_id="x")["event_time"]
    assert back == there
    assert back.utcoffset() == timedelta(0)
    with pytest.raises(DataError, match="time zone"):
        summary_from_row(row(event_time=datetime(2026, 3, 1)))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "makes no sense"),
        ('{"schema": 3}', "reads up to 2"),
        ('{"schema": "x"}', "reads up to 2"),
    ],
)
def test_a_summary_that_is_none_is_refused_with_the_trace_named(summary, problem):
    with pytest.raises(DataError, match=problem) as caught:
        row_from_summary(summary, trace_id="tr-9")
    assert "tr-9" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"event_time": "yesterday"},
        {"event_time": None},
        {"outcome": "unheard_of"},
        {"calls": -1},
        {"calls": 1.5},
        {"confidence": "high"},
        {"agent": None},
        {"tools": 7},
    ],
)
def test_a_summary_with_a_senseless_value_is_refused(row, change):
    values = json.loads(summary_from_row(row())) | change
    with pytest.raises(DataError):
        row_from_summary(json.dumps(values), trace_id="tr-1")


def test_text_is_masked_before_the_row_exists_and_again_when_it_is_read(row):
    values = json.loads(summary_from_row(row())) | {"text": "I am jo@example.org"}
    assert row_from_summary(json.dumps(values), trace_id="t")["text"] == "I am <EMAIL>"


def test_a_user_hash_depends_on_tenant_and_key():
    plain = hash_user(Actor("alice", tenant="a"))
    assert plain != hash_user(Actor("alice", tenant="b"))
    assert plain != hash_user(Actor("alice", tenant="a"), key=b"k")
    assert plain == hash_user(Actor("alice", tenant="a"))


def test_reference_rows_read_back_and_say_where_they_come_from(row, tmp_path):
    path = write_reference([row(1), row(2)], tmp_path / "deep" / "reference.parquet")
    frame = read_rows(path)
    assert list(frame.columns) == list(COLUMN_NAMES)
    assert frame.attrs["source"] == "evaluation"
    assert list(frame["trace_id"]) == ["tr-1", "tr-2"]
    assert [p.name for p in path.parent.iterdir()] == ["reference.parquet"]


def test_rows_that_do_not_fit_are_refused_and_leave_no_file(row, tmp_path):
    for change in ({"agent": None}, {"calls": "many"}, {"event_time": "now"}):
        with pytest.raises(DataError):
            write_reference([row(**change)], tmp_path / "reference.parquet")
    assert not list(tmp_path.glob("*.parquet*"))


def test_a_file_that_is_no_monitoring_table_is_refused(tmp_path):
    missing, text, other, newer = (tmp_path / name for name in "abcd")
    text.write_text("hello")
    pq.write_table(pa.table({"x": [1]}), other)
    pq.write_table(
        pa.table({"x": [1]}).replace_schema_metadata({"mlflow_agents.schema_version": "9"}), newer
    )
    for path, problem in (
        (missing, "cannot be read"),
        (text, "cannot be read"),
        (other, "not a monitoring table"),
        (newer, "schema 9"),
    ):
        with pytest.raises(DataError, match=problem):
            read_rows(path)


def test_no_file_at_all_is_an_empty_table():
    frame = read_rows([])
    assert frame.empty
    assert isinstance(frame["event_time"].dtype, pd.DatetimeTZDtype)


def test_files_and_summaries_of_version_1_have_no_violations_and_are_read(row, tmp_path):
    made = row()
    summary = json.loads(summary_from_row(made))
    del summary["violations"]
    back = row_from_summary(json.dumps({**summary, "schema": 1}), trace_id="tr-1")
    assert back["violations"] is None
    old = rows_to_arrow([made]).drop_columns(["violations"])
    old = old.replace_schema_metadata({"mlflow_agents.schema_version": "1"})
    pq.write_table(old, tmp_path / "old.parquet")
    new = rows_to_arrow([made])
    pq.write_table(new, tmp_path / "new.parquet")
    frame = read_rows([tmp_path / "old.parquet", tmp_path / "new.parquet"])
    assert frame["violations"].iloc[0] is None
    assert list(frame["violations"].iloc[1]) == ["denied_call"]


def test_a_kind_of_violation_nobody_knows_is_a_broken_summary(row):
    summary = json.loads(summary_from_row(row()))
    with pytest.raises(DataError, match="makes no sense"):
        row_from_summary(json.dumps({**summary, "violations": ["witchcraft"]}), trace_id="tr-1")
