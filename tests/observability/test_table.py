"""The monitoring table on a real MLflow tracking store."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability import reading
from mlflow_agent_plugin.observability import table as module
from mlflow_agent_plugin.observability.table import monitoring_table, read_table

DAY = datetime(2026, 3, 1, 23, 59, 59, tzinfo=timezone.utc)


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*.parquet")}


def test_no_traffic_makes_an_empty_table(tracking, tmp_path):
    built = monitoring_table(tracking, path=tmp_path / "t")
    assert (built.added, built.seen) == (0, 0)
    assert built.to_pandas().empty
    assert "0 rows added" in built.summary()


def test_each_request_is_one_row_in_the_file_of_its_utc_day(tracking, trace, tmp_path):
    ids = [trace(number=n, event_time=DAY + timedelta(seconds=n)) for n in range(3)]
    built = monitoring_table(tracking, path=tmp_path / "t")
    assert built.added == 3
    assert built.days == ("2026-03-01", "2026-03-02")
    assert sorted(built.to_pandas()["trace_id"]) == sorted(ids)
    assert {p.parent.name for p in (tmp_path / "t").rglob("*.parquet")} == {
        "day=2026-03-01",
        "day=2026-03-02",
    }
    later = read_table(tmp_path / "t", since=DAY + timedelta(seconds=1))
    assert len(later) == 2
    assert len(read_table(tmp_path / "t", until=DAY + timedelta(seconds=1))) == 1


def test_building_twice_gives_the_same_table_and_a_new_trace_only_its_own_day(
    tracking, trace, tmp_path
):
    for n in range(5):
        trace(number=n, event_time=DAY)
    monitoring_table(tracking, path=tmp_path / "t")
    before = files(tmp_path / "t")
    again = monitoring_table(tracking, path=tmp_path / "t")
    assert again.added == 0
    assert files(tmp_path / "t") == before
    trace(number=9, event_time=DAY + timedelta(days=3))
    third = monitoring_table(tracking, path=tmp_path / "t")
    assert (third.added, third.days) == (1, ("2026-03-04",))
    after = files(tmp_path / "t")
    assert all(after[name] == content for name, content in before.items())


def test_a_crash_between_days_and_state_loses_and_doubles_nothing(
    tracking, trace, tmp_path, monkeypatch
):
    for n in range(4):
        trace(number=n, event_time=DAY + timedelta(days=n))

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write_state", crash)
        with pytest.raises(KeyboardInterrupt):
            monitoring_table(tracking, path=tmp_path / "t")
    assert monitoring_table(tracking, path=tmp_path / "t").added == 0
    assert len(read_table(tmp_path / "t")) == 4


def test_a_killed_builder_leaves_whole_files_and_a_free_lock(tracking, trace, tmp_path):
    for n in range(4):
        trace(number=n, event_time=DAY + timedelta(days=n))
    script = (
        "import os, signal, sys\n"
        "from mlflow_agent_plugin.observability import table\n"
        "import pyarrow.parquet as pq\n"
        "real, count = pq.write_table, []\n"
        "def write(*args, **kw):\n"
        "    real(*args, **kw); count.append(1)\n"
        "    if len(count) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pq.write_table = write\n"
        "table.monitoring_table(sys.argv[1], path=sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tracking, str(tmp_path / "t")], env=dict(os.environ)
    )
    assert done.returncode == -9
    assert len(read_table(tmp_path / "t")) == 2
    assert monitoring_table(tracking, path=tmp_path / "t").added == 2
    assert len(read_table(tmp_path / "t")) == 4


def test_paging_reads_every_trace_once_even_when_a_page_is_one_millisecond(
    tracking, trace, tmp_path, monkeypatch
):
    import sqlalchemy

    ids = [trace(number=n, event_time=DAY) for n in range(11)]
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trace_info SET timestamp_ms = 1000 WHERE request_id IN "
                "(SELECT request_id FROM trace_info ORDER BY request_id LIMIT 8)"
            )
        )
    monkeypatch.setattr(reading, "_PAGE_SIZE", 3)
    monkeypatch.setattr(module, "_BATCH_ROWS", 4)
    built = monitoring_table(tracking, path=tmp_path / "t")
    assert (built.added, built.seen) == (11, 11)
    assert sorted(built.to_pandas()["trace_id"]) == sorted(ids)


def test_a_request_that_began_before_the_last_seen_one_and_ended_later_is_found(
    tracking, trace, tmp_path
):
    import sqlalchemy

    trace(number=1)
    monitoring_table(tracking, path=tmp_path / "t")
    late = trace(number=2)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trace_info SET timestamp_ms = timestamp_ms - 60000 WHERE request_id = :id"
            ),
            {"id": late},
        )
    assert monitoring_table(tracking, path=tmp_path / "t", overlap_seconds=1).added == 0
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1


def test_a_trace_from_a_clock_that_runs_ahead_hides_no_later_one(tracking, trace, tmp_path):
    import sqlalchemy

    ahead = trace(number=1)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trace_info SET timestamp_ms = timestamp_ms + 86400000 "
                "WHERE request_id = :id"
            ),
            {"id": ahead},
        )
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1
    trace(number=2)
    assert monitoring_table(tracking, path=tmp_path / "t").added == 1


def test_a_summary_that_makes_no_sense_is_named_and_the_rest_is_kept(tracking, trace, tmp_path):
    good = trace(number=1)
    bad = trace(number=2, summary='{"outcome": "odd"}')
    built = monitoring_table(tracking, path=tmp_path / "t")
    assert (built.added, built.skipped) == (1, 1)
    assert bad in built.problems[0]
    assert list(built.to_pandas()["trace_id"]) == [good]
    assert "1 skipped" in built.summary()


def test_traces_of_runs_and_of_other_programs_are_no_traffic(tracking, trace, tmp_path):
    import mlflow

    with mlflow.start_run():
        trace(number=1)
    with mlflow.start_span("something else"):
        pass
    built = monitoring_table(tracking, path=tmp_path / "t")
    assert (built.added, built.skipped) == (0, 0)
    assert built.seen == 2


def test_all_experiments_are_read_when_none_is_named(tracking, trace, tmp_path):
    import mlflow

    trace(number=1)
    mlflow.set_experiment("more traffic")
    trace(number=2)
    assert monitoring_table(path=tmp_path / "t").added == 2


def test_a_rebuild_from_the_same_traces_changes_nothing(tracking, trace, tmp_path):
    trace(number=1)
    monitoring_table(tracking, path=tmp_path / "t")
    before = files(tmp_path / "t")
    assert monitoring_table(tracking, path=tmp_path / "t", rebuild=True).added == 0
    assert files(tmp_path / "t") == before


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"schema_version": 1, "experiments": {"0": {}}}', '{"schema_version": 99}'],
)
def test_a_state_file_of_something_else_is_refused_and_nothing_is_changed(
    tracking, trace, tmp_path, content
):
    trace(number=1)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "_state.json").write_text(content)
    with pytest.raises(DataError):
        monitoring_table(tracking, path=tmp_path / "t")
    assert not list((tmp_path / "t").rglob("*.parquet"))


def test_a_newer_state_is_refused(tracking, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "_state.json").write_text(
        json.dumps({"schema_version": 99, "experiments": {}})
    )
    with pytest.raises(DataError, match="schema 99"):
        monitoring_table(tracking, path=tmp_path / "t")


def test_reading_where_no_table_is_says_so(tmp_path):
    with pytest.raises(DataError, match="no monitoring table"):
        read_table(tmp_path / "nothing")


def test_a_table_shows_itself_in_a_notebook_with_its_texts_escaped(tracking, trace, tmp_path):
    trace(number=1, text="<script>alert(1)</script>")
    shown = monitoring_table(tracking, path=tmp_path / "t")._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
