"""The audit leaves the store whole, checkable elsewhere, and locked where that was asked for."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import select

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.store.tables import audit_events
from mlflow_agent_plugin.trust import (
    AuditKind,
    AuditLog,
    AuditSelection,
    export_audit,
    export_audit_to_s3,
)
from mlflow_agent_plugin.trust.audit.chain import HEADER_FIELDS, event_hash

EVE = Actor("eve", "bank", verified=True)


@pytest.fixture
def filled(memory_store):
    with AuditLog(memory_store) as log:
        for number in range(25):
            log.append(
                AuditKind.TOOL_CALL_DECIDED, request_id=f"r{number % 5}", session_id="s",
                actor=EVE if number % 2 else Actor("mo", "other"), number=number, word="é\u2028\x00",
                hostile=float("nan"),
            )  # fmt: skip
    return memory_store


def hashes(store):
    with store.read() as connection:
        query = select(audit_events.c.hash).order_by(audit_events.c.position)
        return list(connection.execute(query).scalars())


def test_json_lines_hold_every_event_in_order_with_its_hash(filled, tmp_path):
    made = export_audit(filled, tmp_path / "audit.jsonl")
    lines = (tmp_path / "audit.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["hash"] for line in lines] == hashes(filled)
    assert (made.events, made.anchor) == (25, AuditLog(filled).anchor())
    assert list(tmp_path.glob(".*draft*")) == []


def test_from_the_parquet_file_alone_every_hash_can_be_made_again(filled, tmp_path):
    import pyarrow.parquet as pq

    made = export_audit(filled, tmp_path / "audit.parquet")
    rows = pq.read_table(tmp_path / "audit.parquet").to_pylist()
    assert made.events == len(rows) == 25
    assert [row["hash"] for row in rows] == hashes(filled)
    for row in rows:
        header = {name: row[name] for name in HEADER_FIELDS}
        assert row["hash"] == event_hash(header, row["body"], row["prev_hash"])


@pytest.mark.parametrize("name", ["part.jsonl", "part.parquet"])
def test_a_selection_exports_only_what_was_asked_for_and_may_be_empty(filled, tmp_path, name):
    wanted = AuditSelection(request_id="r1", tenant="bank")
    assert export_audit(filled, tmp_path / name, wanted).events == 3
    assert export_audit(filled, tmp_path / name, AuditSelection(session_id="x")).events == 0


def test_a_file_that_cannot_be_written_leaves_what_was_there(filled, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        export_audit(filled, tmp_path / "no" / "audit.jsonl")
    target = tmp_path / "audit.jsonl"
    target.mkdir()
    with pytest.raises(ConfigError):
        export_audit(filled, target)
    assert list(tmp_path.glob(".*draft*")) == []
    assert target.is_dir()


@pytest.fixture(scope="module")
def s3():
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket="plain")
    yield client
    server.stop()


NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_an_object_is_locked_for_as_long_as_was_asked_and_names_its_anchor(filled, s3, mode):
    uri = f"s3://locked/{mode}/audit.parquet"
    made = export_audit_to_s3(
        filled, uri, lock_days=30, lock_mode=mode, client=s3, clock=lambda: NOW
    )
    found = s3.head_object(Bucket="locked", Key=f"{mode}/audit.parquet")
    assert found["ObjectLockMode"] == mode
    assert found["ObjectLockRetainUntilDate"] == NOW + timedelta(days=30) == made.locked_until
    anchor = AuditLog(filled).anchor()
    assert found["Metadata"] == {
        "events": "25", "sha256": made.sha256, "anchor": f"{anchor.number}:{anchor.hash}",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not overwritten"):
        export_audit_to_s3(filled, uri, client=s3)


def test_a_bucket_that_does_not_lock_is_an_error(filled, s3):
    with pytest.raises(ConfigError, match=r"did not lock it|refused it"):
        export_audit_to_s3(filled, "s3://plain/audit.jsonl", lock_days=1, client=s3)
    assert export_audit_to_s3(filled, "s3://plain/free.jsonl", client=s3).locked_until is None


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///k", "http://b/k"])
def test_a_target_that_is_no_object_is_refused(filled, uri):
    with pytest.raises(ConfigError, match="is not s3://bucket/key"):
        export_audit_to_s3(filled, uri)


@pytest.mark.parametrize(("days", "mode"), [(0, "COMPLIANCE"), (1, "compliance"), (-1, "x")])
def test_a_lock_that_is_none_is_refused(filled, days, mode):
    with pytest.raises(ConfigError, match="a lock takes"):
        export_audit_to_s3(filled, "s3://locked/k", lock_days=days, lock_mode=mode)


def test_a_missing_bucket_is_one_readable_error(filled, s3):
    with pytest.raises(ConfigError, match="the object store refused it"):
        export_audit_to_s3(filled, "s3://nowhere/k", client=s3)
