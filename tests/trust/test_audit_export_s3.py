"""The audit goes to a real object store: whole, signed for, never over another object."""

from __future__ import annotations

import hashlib

import pytest

from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.trust import AuditKind, AuditLog, export_audit, export_audit_to_s3
from mlflow_agent_plugin.trust.audit import export

pytestmark = pytest.mark.integration


@pytest.fixture
def filled(memory_store):
    with AuditLog(memory_store) as log:
        for number in range(200):
            log.append(AuditKind.TOOL_CALL_DECIDED, request_id=f"r{number}", number=number)
    return memory_store


def stored(s3_server, bucket, key):
    return s3_server.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def test_a_server_that_checks_signatures_gets_what_a_file_would(
    filled, s3_server, s3_bucket, tmp_path
):
    made = export_audit_to_s3(filled, f"s3://{s3_bucket}/a/audit.jsonl")
    export_audit(filled, tmp_path / "audit.jsonl")
    body = stored(s3_server, s3_bucket, "a/audit.jsonl")
    assert body == (tmp_path / "audit.jsonl").read_bytes()
    assert hashlib.sha256(body).hexdigest() == made.sha256


def test_wrong_keys_are_one_readable_error_without_the_key(filled, s3_server, s3_bucket):
    client = s3_server.client(aws_secret_access_key="not-the-key")
    with pytest.raises(ConfigError, match="refused it") as refusal:
        export_audit_to_s3(filled, f"s3://{s3_bucket}/audit.jsonl", client=client)
    assert "not-the-key" not in str(refusal.value)
    assert s3_server.client().list_objects_v2(Bucket=s3_bucket)["KeyCount"] == 0


def test_a_store_that_ignores_the_lock_is_an_error(filled, s3_bucket):
    # Swift takes the headers of Object Lock and does nothing about them.
    with pytest.raises(ConfigError, match="did not lock it"):
        export_audit_to_s3(filled, f"s3://{s3_bucket}/audit.jsonl", lock_days=1)


@pytest.mark.parametrize("largest", [export.LARGEST_SINGLE_UPLOAD, 1000])
def test_an_object_that_exists_is_not_overwritten_however_it_is_uploaded(
    filled, s3_server, s3_bucket, monkeypatch, largest
):
    s3_server.client().put_object(Bucket=s3_bucket, Key="audit.jsonl", Body=b"first")
    monkeypatch.setattr(export, "LARGEST_SINGLE_UPLOAD", largest)
    with pytest.raises(ConfigError, match="not overwritten"):
        export_audit_to_s3(filled, f"s3://{s3_bucket}/audit.jsonl")
    assert stored(s3_server, s3_bucket, "audit.jsonl") == b"first"


def test_a_large_export_goes_up_in_parts_and_is_the_same_bytes(
    filled, s3_server, s3_bucket, monkeypatch
):
    with AuditLog(filled) as log:
        for number in range(300):
            log.append(AuditKind.TOOL_CALL_DECIDED, number=number, text=f"{number}" * 2_000)
    monkeypatch.setattr(export, "LARGEST_SINGLE_UPLOAD", 1 << 20)
    monkeypatch.setattr(export, "PART_BYTES", 1 << 20)
    made = export_audit_to_s3(filled, f"s3://{s3_bucket}/large.jsonl")
    body = stored(s3_server, s3_bucket, "large.jsonl")
    assert len(body) > 1 << 20
    assert hashlib.sha256(body).hexdigest() == made.sha256


def test_a_server_that_is_away_is_one_error_and_writes_nothing(filled, s3_server, s3_bucket):
    import boto3
    from botocore.config import Config

    away = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:1", region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="does not answer"):
        export_audit_to_s3(filled, f"s3://{s3_bucket}/audit.jsonl", client=away)
