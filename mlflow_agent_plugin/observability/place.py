"""Where a monitoring table lies: a folder on this machine, or a prefix of an S3 bucket.

Rules:
- A file appears under its name when it is whole, or not at all: on disk it is written beside its
  place and renamed, an object becomes visible when its upload has ended.
- One builder at a time. On disk a file lock says who; it ends with its process. In a bucket the
  lease ``monitoring <uri>`` of the runtime store says who: builders on several machines share that
  store (PostgreSQL). It is renewed before every write; a builder that lost it writes no more.
- Who only prepares files (an executor of Spark) holds no lock and writes under names nobody else
  uses; the builder moves them to their places.
- A file is read and written through this machine's disk, never as a whole in memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mlflow_agent_plugin.errors import DataError

S3_SCHEME = "s3://"
LEASE_SECONDS = 300.0
"""A builder that dies keeps others from a table in a bucket for so long."""

_LOCK_FILE = "_lock"
_GONE = ("404", "NoSuchKey", "NotFound")


class Place(Protocol):
    """The files of one table; names are paths below it, with slashes."""

    where: str

    def holding(self, file_name: str, inside: str) -> list[str]:
        """Return the names of the folders in `inside` ("": the table) that hold such a file."""

    def exists(self) -> bool:
        """Say whether there is anything."""

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path | None]:
        """Give the file on this machine for the length of the block, None if there is none."""

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write` make the file, and put it in its place as a whole."""

    def move(self, name: str, to: str) -> None:
        """Put the file `name` in the place of `to`, as a whole."""

    def clear(self, inside: str) -> None:
        """Remove what lies in the folder `inside`, if there is such a folder."""

    @contextmanager
    def locked(self, timeout_seconds: float) -> Iterator[None]:
        """Be the only builder for the length of the block."""

    def renew(self) -> None:
        """Say that this builder lives; a builder that writes says it by that.

        Raises:
            DataError: Another one took over.
        """


def open_place(path: str | Path) -> Place:
    """Return the place that `path` names: a folder, or ``s3://bucket/prefix``.

    Raises:
        DataError: It is another kind of URI, or names no bucket and prefix.
    """
    text = str(path)
    if text.startswith(S3_SCHEME):
        return S3Place(text)
    if "://" in text:
        raise DataError("a monitoring table lies in a folder or at s3://bucket/prefix", where=text)
    return FolderPlace(Path(path))


class FolderPlace:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def holding(self, file_name: str, inside: str) -> list[str]:
        """As `Place`."""
        place = self.folder / inside
        children = place.iterdir() if place.is_dir() else ()
        return sorted(child.name for child in children if (child / file_name).is_file())

    def exists(self) -> bool:
        """As `Place`."""
        return self.folder.is_dir()

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path | None]:
        """As `Place`."""
        file = self.folder / name
        yield file if file.is_file() else None

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """As `Place`."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"_{file.name}.tmp")
        write(temporary)
        temporary.replace(file)

    def move(self, name: str, to: str) -> None:
        """As `Place`."""
        target = self.folder / to
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).replace(target)

    def clear(self, inside: str) -> None:
        """As `Place`."""
        shutil.rmtree(self.folder / inside, ignore_errors=True)

    def renew(self) -> None:
        """As `Place`: a lock on a file lives as long as its process."""

    @contextmanager
    def locked(self, timeout_seconds: float) -> Iterator[None]:
        """As `Place`."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK_FILE, timeout=timeout_seconds)
        try:
            lock.acquire()
        except Timeout as error:
            raise _being_built(self.where) from error
        try:
            yield
        finally:
            lock.release()


class S3Place:
    """A prefix of a bucket; keys and endpoint come from the environment (``AWS_*``).

    Args:
        uri: ``s3://bucket/prefix``.
        client: A boto3 S3 client; default: one from the environment.
    """

    def __init__(self, uri: str, client: Any = None) -> None:
        bucket, _, prefix = uri.removeprefix(S3_SCHEME).strip("/").partition("/")
        if not bucket or not prefix:
            raise DataError("is not s3://bucket/prefix", where=uri)
        self.where = f"{S3_SCHEME}{bucket}/{prefix}"
        self._bucket, self._prefix = bucket, prefix
        self._client = client or _client()
        self._renew: Callable[[], None] = lambda: None

    def holding(self, file_name: str, inside: str) -> list[str]:
        """As `Place`."""
        above = self._key(inside).rstrip("/") + "/"
        found = set()
        with _readable(self.where):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=above
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    folder, _, name = item["Key"].removeprefix(above).partition("/")
                    if name == file_name:
                        found.add(folder)
        return sorted(found)

    def exists(self) -> bool:
        """As `Place`."""
        with _readable(self.where):
            listed = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=f"{self._prefix}/", MaxKeys=1
            )
        return bool(listed.get("Contents"))

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path | None]:
        """As `Place`."""
        from botocore.exceptions import ClientError

        with tempfile.TemporaryDirectory(prefix="agent-table-") as folder:
            local = Path(folder) / Path(name).name
            found: Path | None = local
            with _readable(f"{self.where}/{name}"):
                try:
                    self._client.download_file(self._bucket, self._key(name), str(local))
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") not in _GONE:
                        raise
                    found = None
            yield found

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """As `Place`."""
        with tempfile.TemporaryDirectory(prefix="agent-table-") as folder:
            local = Path(folder) / Path(name).name
            write(local)
            self._renew()
            with _readable(f"{self.where}/{name}"):
                self._client.upload_file(str(local), self._bucket, self._key(name))

    def move(self, name: str, to: str) -> None:
        """As `Place`."""
        source = {"Bucket": self._bucket, "Key": self._key(name)}
        self._renew()
        with _readable(f"{self.where}/{to}"):
            self._client.copy(source, self._bucket, self._key(to))
            self._client.delete_object(**source)

    def clear(self, inside: str) -> None:
        """As `Place`."""
        with _readable(self.where):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._key(inside)}/"
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    self._client.delete_object(Bucket=self._bucket, Key=item["Key"])

    def renew(self) -> None:
        """As `Place`."""
        self._renew()

    @contextmanager
    def locked(self, timeout_seconds: float) -> Iterator[None]:
        """As `Place`."""
        from mlflow_agent_plugin.store import Store
        from mlflow_agent_plugin.store.leases import LeaseTable

        name, holder = f"monitoring {self.where}", uuid.uuid4().hex
        with Store.open() as store:
            table = LeaseTable(store)
            deadline = time.monotonic() + timeout_seconds
            while not table.acquire(name, holder, LEASE_SECONDS):
                if time.monotonic() > deadline:
                    raise _being_built(self.where)
                time.sleep(0.2)

            def renew() -> None:
                if not table.acquire(name, holder, LEASE_SECONDS):
                    raise DataError(
                        "another process took over the building of this table", where=self.where
                    )

            self._renew = renew
            try:
                yield
            finally:
                self._renew = lambda: None
                table.release(name, holder)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Let an object store's refusal leave as one error that names the place."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        said = told.get("Message") or told.get("Code")
        raise DataError(f"the object store refused it: {said}", where=where) from error
    except Boto3Error as error:  # an upload it refused
        raise DataError(f"the object store refused it: {error}", where=where) from error
    except BotoCoreError as error:
        raise DataError(f"the object store does not answer: {error}", where=where) from error


def _client() -> Any:
    import boto3

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    # Not the default session: it keeps the first credentials it saw, and no two threads may use it.
    return boto3.session.Session().client("s3", endpoint_url=endpoint)


def _being_built(where: str) -> DataError:
    return DataError("another process has been building this table", where=where)


@contextmanager
def all_fetched(place: Place, names: list[str]) -> Iterator[list[Path]]:
    """Give several files at once; one that went away in between is left out."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(place.fetched(name)) for name in names]
        yield [file for file in found if file is not None]
