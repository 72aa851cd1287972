"""The pipeline's data in a DVC remote on a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def dvc(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip


def test_a_dataset_pushed_to_s3_comes_back_on_another_machine(tmp_path, s3_server, s3_bucket):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for folder in (here, there):
        assert dvc(folder, "init", "--no-scm").returncode == 0
        for setting in (
            ("add", "--default", "store", f"s3://{s3_bucket}/dvc"),
            ("modify", "store", "endpointurl", s3_server.endpoint),
        ):
            assert dvc(folder, "remote", *setting).returncode == 0
    rows = "".join(f"question {number},intent\n" for number in range(5000))
    (here / "dataset.csv").write_text(rows)
    assert dvc(here, "add", "dataset.csv").returncode == 0
    pushed = dvc(here, "push")
    assert pushed.returncode == 0, pushed.stderr
    (there / "dataset.csv.dvc").write_bytes((here / "dataset.csv.dvc").read_bytes())
    refused = dvc(there, "pull", AWS_SECRET_ACCESS_KEY="not-the-key")
    assert refused.returncode != 0
    assert not (there / "dataset.csv").exists()
    pulled = dvc(there, "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (there / "dataset.csv").read_text() == rows
