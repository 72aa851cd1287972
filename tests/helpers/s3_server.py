"""A real S3 server of the tests' own: OpenStack Swift with its S3 API, from PyPI.

It checks signatures and checksums and keeps objects on disk, as moto's server does not. Its objects'
metadata are user attributes of files: where no folder has those, tests that need it are skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROCESS = Path(__file__).with_name("swift_process.py")
REGION = "us-east-1"


def folder_with_attributes() -> Path:
    """Make a folder whose files can have user attributes; skip the test if there is none."""
    for place in (tempfile.gettempdir(), "/var/tmp", str(Path.home())):
        try:
            folder = Path(tempfile.mkdtemp(prefix="agents-s3-", dir=place))
        except OSError:
            continue
        try:
            os.setxattr(folder, "user.swift.try", b"x")
        except OSError:
            folder.rmdir()
            continue
        return folder
    pytest.skip("no file system here has user attributes, which the S3 server needs")


class S3Server:
    """A server on a free port; `stop` and `start` keep what is stored.

    Attributes:
        endpoint: Its URL.
        access_key: Whom it trusts.
        secret_key: Never in an error of ours.
    """

    def __init__(self) -> None:
        pytest.importorskip("swift", reason="OpenStack Swift is not installed")
        self.folder = folder_with_attributes()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.access_key, self.secret_key = "test:tester", secrets.token_hex(12)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROCESS), str(self.folder), str(self._port),
             self.access_key, self.secret_key],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the S3 server did not start: exit {self._process.wait()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told so that boto3 and MLflow use this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }

    def client(self, **changed):
        """Give a boto3 client of this server."""
        import boto3

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=REGION, **{**keys, **changed}
        )


def object_keys(client, bucket: str) -> list[str]:
    """Return the keys of all objects of a bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]
