"""Where a monitoring table lies: folders are tested in `test_table`, an S3 bucket here."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from helpers.s3_server import object_keys

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.observability.place import S3Place, open_place
from mlflow_agent_plugin.observability.table import monitoring_table, read_steps, read_table
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.leases import LeaseTable

DAY = datetime(2026, 3, 1, 23, 59, 59, tzinfo=timezone.utc)


@pytest.mark.parametrize("uri", ["gs://b/p", "s3://", "s3://bucket", "s3://bucket/", "s3:///p"])
def test_what_is_no_folder_and_no_place_in_a_bucket_is_refused(uri):
    with pytest.raises(DataError, match="s3://bucket/prefix"):
        open_place(uri)


@pytest.fixture
def uri(s3_bucket):
    return f"s3://{s3_bucket}/traffic/bank"


@pytest.mark.integration
def test_a_table_in_a_bucket_holds_the_rows_a_folder_would(
    tracking, trace, tmp_path, uri, s3_server, s3_bucket
):
    for number in range(4):
        trace(number=number, event_time=DAY + timedelta(seconds=number))
    built = monitoring_table(tracking, path=uri)
    folder = monitoring_table(tracking, path=tmp_path / "t")
    assert (built.added, built.days) == (folder.added, folder.days) == (
        4, ("2026-03-01", "2026-03-02"),
    )  # fmt: skip
    assert built.to_pandas().equals(folder.to_pandas())
    assert built.steps().equals(folder.steps())
    assert str(built.path) == uri
    later = DAY + timedelta(seconds=1)
    assert len(read_table(uri, since=later)) == 3
    assert len(read_table(uri, until=later)) == 1
    assert {key.rpartition("/")[2] for key in object_keys(s3_server.client(), s3_bucket)} == {
        "_state.json", "part.parquet",
    }  # fmt: skip
    trace(number=9, event_time=DAY + timedelta(days=3))
    again = monitoring_table(tracking, path=uri)
    assert (again.added, again.days) == (1, ("2026-03-04",))
    assert len(read_table(uri)) == 5


@pytest.mark.integration
def test_where_there_is_no_table_or_no_bucket_it_is_said(uri):
    with pytest.raises(DataError, match="no monitoring table"):
        read_table(uri)
    with pytest.raises(DataError, match="no monitoring table"):
        read_steps(uri)
    with pytest.raises(DataError, match="refused it"):
        monitoring_table([], path="s3://no-such-bucket-here/t")


@pytest.mark.integration
def test_a_second_builder_waits_and_then_says_so(uri, monkeypatch):
    monkeypatch.setattr("mlflow_agent_plugin.observability.table.LOCK_TIMEOUT_SECONDS", 0.0)
    with open_place(uri).locked(1.0), pytest.raises(DataError, match="another process"):
        monitoring_table([], path=uri)
    assert monitoring_table([], path=uri).added == 0


@pytest.mark.integration
def test_a_builder_that_lost_its_lease_writes_no_more(uri, monkeypatch):
    place = open_place(uri)
    with place.locked(1.0):
        place.put("first", lambda file: file.write_text("kept"))
        with Store.open() as store:
            table = LeaseTable(store, clock=lambda: datetime(2100, 1, 1, tzinfo=timezone.utc))
            assert table.acquire(f"monitoring {uri}", "somebody else", 60)
        with pytest.raises(DataError, match="took over"):
            place.put("second", lambda file: file.write_text("too late"))
        with pytest.raises(DataError, match="took over"):
            place.renew()
        with pytest.raises(DataError, match="took over"):
            place.move("first", "second")
    with place.fetched("first") as kept, place.fetched("second") as late:
        assert kept is not None
        assert late is None


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.integration)])
def somewhere(request, tmp_path):
    return tmp_path / "t" if request.param == "folder" else request.getfixturevalue("uri")


def test_a_prepared_file_is_moved_to_its_place_and_what_else_was_prepared_goes(somewhere):
    place = open_place(somewhere)
    place.put("day=2026-03-01/part.parquet", lambda file: file.write_text("old"))
    for name in ("one", "two"):
        place.put(f"_building/a/{name}.parquet", lambda file: file.write_text("new"))
    assert place.holding("part.parquet", "") == ["day=2026-03-01"]
    with place.locked(1.0):
        place.renew()
        place.move("_building/a/one.parquet", "day=2026-03-01/part.parquet")
        place.move("_building/a/two.parquet", "day=2026-03-02/part.parquet")
    with place.fetched("day=2026-03-01/part.parquet") as file:
        assert file.read_text() == "new"
    with place.fetched("_building/a/one.parquet") as gone:
        assert gone is None
    place.put("_building/a/three.parquet", lambda file: file.write_text("left"))
    place.clear("_building")
    place.clear("_building")
    with place.fetched("_building/a/three.parquet") as gone:
        assert gone is None
    assert place.holding("part.parquet", "") == ["day=2026-03-01", "day=2026-03-02"]


@pytest.mark.integration
def test_a_file_that_could_not_be_written_whole_does_not_appear(uri):
    place = open_place(uri)

    def fails(file):
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place.put("day", fails)
    assert not place.exists()


@pytest.mark.integration
def test_a_server_that_is_away_is_one_error_that_names_the_place(s3_bucket):
    import boto3
    from botocore.config import Config

    away = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:1", region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    place = S3Place(f"s3://{s3_bucket}/t", client=away)
    with pytest.raises(DataError, match="does not answer") as problem:
        place.exists()
    assert f"s3://{s3_bucket}/t" in str(problem.value)
