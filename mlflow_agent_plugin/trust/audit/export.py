"""Taking the audit elsewhere: JSON lines, Parquet, S3 with Object Lock.

Rules:
- Events are streamed from one consistent state of the store, in the order they were written, with
  the hashes they were written with; a file appears under its name when it is whole, or not at all.
- An export names the checkpoint it was made under (an `AuditAnchor`): kept where the store's owner
  cannot reach it, it shows whether anything was cut off since.
- An object that should be locked and is not is an error, and an object is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import ConfigError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import audit_events
from mlflow_agent_plugin.trust.audit.chain import AuditEvent, spell_body, spell_fields
from mlflow_agent_plugin.trust.audit.rows import latest_anchor, read_event
from mlflow_agent_plugin.trust.audit.verification import AuditAnchor

LOCK_MODES = ("GOVERNANCE", "COMPLIANCE")
LARGEST_SINGLE_UPLOAD = 1 << 30
"""Larger files go up in parts; S3 takes at most 5 GiB at once."""

PART_BYTES = 64 << 20
"""Size of a part, and what an upload holds in memory; S3 takes 10,000 parts: 640 GB."""

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class AuditSelection:
    """Which events to export; None means all."""

    session_id: str | None = None
    request_id: str | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class AuditExport:
    """What was exported, and where to.

    Attributes:
        target: File or object.
        events: How many.
        sha256: Of the file's bytes, in hexadecimal.
        anchor: The latest checkpoint at that moment, None if there was none.
        locked_until: Until when the object store keeps it, None if it is not locked.
    """

    target: str
    events: int
    sha256: str
    anchor: AuditAnchor | None
    locked_until: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "target": self.target,
            "events": self.events,
            "sha256": self.sha256,
            "anchor": None if self.anchor is None else self.anchor.to_dict(),
            "locked_until": None if self.locked_until is None else self.locked_until.isoformat(),
        }


def export_audit(
    store: Store, target: str | Path, selection: AuditSelection | None = None
) -> AuditExport:
    """Write events to a file: Parquet if its name ends in ``.parquet``, else JSON lines.

    Raises:
        ConfigError: The file cannot be written.
        StoreError: The store cannot be read.
    """
    path = Path(target)
    write = _write_parquet if path.suffix == ".parquet" else _write_lines
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    try:
        with store.read() as connection:
            events = write(draft, _events(connection, selection or AuditSelection()))
            anchor = latest_anchor(connection)
        digest = _sha256(draft)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror or error}", where=str(path)
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return AuditExport(str(path), events, digest, anchor)


def export_audit_to_s3(
    store: Store,
    uri: str,
    selection: AuditSelection | None = None,
    *,
    lock_days: int | None = None,
    lock_mode: str = "COMPLIANCE",
    client: Any = None,
    clock: Clock = utc_now,
) -> AuditExport:
    """Write events to an object, locked against deletion and change if `lock_days` is given.

    Args:
        store: The runtime store.
        uri: ``s3://bucket/key``; a key that ends in ``.parquet`` is written as Parquet.
        selection: Which events.
        lock_days: How long the object store must keep it. The bucket has Object Lock switched on.
        lock_mode: ``COMPLIANCE``: nobody can shorten it, the account's owner included;
            ``GOVERNANCE``: whoever has the right to.
        client: A boto3 S3 client; default: one from the environment (``AWS_*``).
        clock: Time the lock is counted from.

    Raises:
        ConfigError: The URI is none, an object of that name exists, or it could not be locked.
        StoreError: The store cannot be read.
    """
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - import cost
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key or key.endswith("/"):
        raise ConfigError("is not s3://bucket/key", where=uri)
    if lock_days is not None and (lock_days < 1 or lock_mode not in LOCK_MODES):
        raise ConfigError(
            f"a lock takes at least one day and a mode of {', '.join(LOCK_MODES)}", where=uri
        )
    s3 = client or _client()
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(key).name
        made = export_audit(store, local, selection)
        until = None if lock_days is None else clock() + timedelta(days=lock_days)
        anchor = "" if made.anchor is None else f"{made.anchor.number}:{made.anchor.hash}"
        lock = {} if until is None else {
            "ObjectLockMode": lock_mode,
            "ObjectLockRetainUntilDate": until,
        }  # fmt: skip
        try:
            told = {"events": str(made.events), "sha256": made.sha256, "anchor": anchor}
            _upload(s3, local, bucket, key, {"Metadata": told, **lock})
            found = s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            raise _refused(uri, error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise ConfigError(f"the object store does not answer: {error}", where=uri) from error
    if until is not None and (
        found.get("ObjectLockMode") != lock_mode
        or found["ObjectLockRetainUntilDate"] < until - timedelta(seconds=1)
    ):
        raise ConfigError(
            "was written, but the object store did not lock it",
            where=uri,
            hint="Make the bucket with Object Lock switched on.",
        )
    return AuditExport(uri, made.events, made.sha256, made.anchor, until)


def _upload(s3: Any, local: Path, bucket: str, key: str, extra: dict[str, Any]) -> None:
    """Write a new object from a file of any size; boto3's own transfer may overwrite one."""
    place = {"Bucket": bucket, "Key": key}
    extra = {"ChecksumAlgorithm": "SHA256", **extra}
    with local.open("rb") as file:
        if local.stat().st_size <= LARGEST_SINGLE_UPLOAD:
            s3.put_object(**place, Body=file, IfNoneMatch="*", **extra)
            return
        upload = {**place, "UploadId": s3.create_multipart_upload(**place, **extra)["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while block := file.read(PART_BYTES):
                number = len(parts) + 1
                part = s3.upload_part(
                    **upload, PartNumber=number, Body=block, ChecksumAlgorithm="SHA256"
                )
                kept = {name: part[name] for name in ("ETag", "ChecksumSHA256") if name in part}
                parts.append({"PartNumber": number, **kept})
            s3.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            s3.abort_multipart_upload(**upload)
            raise


def _refused(uri: str, error: Any) -> ConfigError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in ("PreconditionFailed", "412"):
        return ConfigError("exists already and is not overwritten", where=uri)
    said = error.response.get("Error", {}).get("Message") or code
    return ConfigError(f"the object store refused it: {said}", where=uri)


def _client() -> Any:
    import boto3  # noqa: PLC0415 - import cost

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    # Not the default session: it keeps the first credentials it saw, and no two threads may use it.
    return boto3.session.Session().client("s3", endpoint_url=endpoint)


def _events(connection: Connection, selection: AuditSelection) -> Iterator[AuditEvent]:
    query = select(audit_events)
    for name, value in vars(selection).items():
        if value is not None:
            query = query.where(audit_events.c[name] == value)
    rows = connection.execution_options(yield_per=1000).execute(
        query.order_by(audit_events.c.position)
    )
    return (read_event(row) for row in rows)


def _write_lines(path: Path, events: Iterable[AuditEvent]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event.to_dict(), ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def _write_parquet(path: Path, events: Iterable[AuditEvent]) -> int:
    import pyarrow as pa  # noqa: PLC0415 - import cost
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = _schema(pa)
    count, stream = 0, iter(events)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := [_flat(event) for event in islice(stream, _ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _schema(pa: Any) -> Any:
    whole = {"seq", "position"}
    return pa.schema(
        [("event_id", pa.string())]
        + [
            (column.name, pa.int64() if column.name in whole else pa.string())
            for column in audit_events.columns
        ]
    )


def _flat(event: AuditEvent) -> dict[str, Any]:
    values = event.to_dict()
    # As it was hashed: whoever has the file can check every hash with nothing else.
    values["body"] = spell_body(spell_fields(event.body))
    return values


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
