"""Writing a content to an object store once, and never over anything.

Rules:
- Every object is created on the condition that there is none of its name (``If-None-Match: *``), so
  of two registries that write at once one wins, and what lies there is never overwritten.
- MLmodel comes last: a registration that dies in between leaves nothing that loads, and the next
  one completes it. What lies there and differs is found by whoever put it (see `registry.vault`).
- Where the bucket has Object Lock, each object gets a legal hold: nobody deletes or replaces this
  version of it until somebody with that right lifts the hold. A default retention of the bucket
  counts besides.
- Storage that is not S3, or does not know the condition, is asked first and written then: there two
  writers at the same moment could both write, the same bytes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.errors import StoreError

_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_UNKNOWN_CONDITION = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest"})


def write_once(repo: Any, prefix: str, folder: Path, files: Iterable[str]) -> None:
    """Write files below `prefix` of an artifact repository; those that are there stay as they are.

    Args:
        repo: MLflow's repository of the storage.
        prefix: Path in it.
        folder: Where the files are.
        files: Paths relative to `folder`.

    Raises:
        StoreError: The storage refuses.
    """
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    ordered = sorted(files, key=lambda path: (path == "MLmodel", path))
    if not isinstance(repo, S3ArtifactRepository):
        _write_missing(repo, prefix, folder, ordered)
        return
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, root = repo.parse_s3_compliant_uri(repo.artifact_uri)
    client = repo._get_s3_client()  # noqa: SLF001 - with MLflow's endpoint and credentials
    extra: dict[str, Any] = {
        **repo._bucket_owner_params,  # noqa: SLF001
        **(repo.get_s3_file_upload_extra_args() or {}),
    }
    try:
        if _has_object_lock(client, bucket):
            extra["ObjectLockLegalHoldStatus"] = "ON"
        for path in ordered:
            _put(client, bucket, posixpath.join(root, prefix, path), folder / path, extra)
    except (BotoCoreError, ClientError) as error:
        raise StoreError(
            f"the registry cannot keep the content: {error}",
            where=f"s3://{bucket}/{posixpath.join(root, prefix)}",
            hint="The registry needs s3:GetObject, s3:PutObject and s3:ListBucket there, and "
            "s3:PutObjectLegalHold where the bucket has Object Lock.",
        ) from error


def _put(client: Any, bucket: str, key: str, file: Path, extra: Mapping[str, Any]) -> None:
    from botocore.exceptions import ClientError

    with file.open("rb") as body:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*", **extra)
        except ClientError as error:
            code = _code(error)
            if code in _TAKEN:
                return
            if code not in _UNKNOWN_CONDITION:
                raise
            if not _exists(client, bucket, key):
                body.seek(0)
                client.put_object(Bucket=bucket, Key=key, Body=body, **extra)


def _exists(client: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in {"404", "NoSuchKey", "NotFound"}:
            return False
        raise
    return True


def _has_object_lock(client: Any, bucket: str) -> bool:
    """Say whether objects of the bucket can be locked; False where that cannot be asked."""
    from botocore.exceptions import ClientError

    try:
        found = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        if _code(error) == "NoSuchBucket":
            raise
        return False
    return bool(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _write_missing(repo: Any, prefix: str, folder: Path, files: Iterable[str]) -> None:
    listed: dict[str, set[str]] = {}
    for path in files:
        parent = posixpath.join(prefix, posixpath.dirname(path)).rstrip("/")
        if parent not in listed:
            listed[parent] = {item.path for item in repo.list_artifacts(parent or None)}
        if posixpath.join(prefix, path) not in listed[parent]:
            repo.log_artifact(str(folder / path), parent or None)
