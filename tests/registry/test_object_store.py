"""The registry's copies in an object store: a real S3 server."""

from __future__ import annotations

import threading

import boto3
import mlflow
import pytest
import requests
from helpers.registry_world import GATE, World
from helpers.s3_server import object_keys
from helpers.servers import Server, remote_world
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry as repositories

from mlflow_agent_plugin.core.models_repository import make_repository
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.package.model_folder import digest_folder
from mlflow_agent_plugin.registry import (
    approve,
    gate_report,
    promote,
    request_promotion,
    rollback,
    verify_registry,
)
from mlflow_agent_plugin.registry.content import read_agent
from mlflow_agent_plugin.registry.places import repository
from mlflow_agent_plugin.registry.vault import Vault

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(s3_server, s3_bucket):
    """Give the client and name of an empty bucket."""
    return Bucket(s3_server.client(), s3_bucket)


class Bucket:
    def __init__(self, client, name):
        self.client, self.name = client, name

    def keys(self):
        return object_keys(self.client, self.name)

    def etags(self):
        head = self.client.head_object
        return {key: head(Bucket=self.name, Key=key)["ETag"] for key in list(self.keys())}

    def delete_all(self):
        for key in self.keys():
            self.client.delete_object(Bucket=self.name, Key=key)

    def overwrite(self, ending):
        key = next(key for key in self.keys() if key.endswith(ending))
        body = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        code = b"\nopen('ran', 'w').close()\n"
        self.client.put_object(Bucket=self.name, Key=key, Body=body + code)


@pytest.fixture
def world(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("MLFLOW_AGENTS_ACTOR", "bob")
    monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", f"s3://{bucket.name}/agents")
    uri = f"agents+sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setitem(
        repositories._artifact_repository_registry._registry, "models", make_repository
    )
    mlflow.set_registry_uri(uri)
    return World(tmp_path, uri)


def load():
    return mlflow.pyfunc.load_model("models:/shelf@champion")


def test_a_version_is_kept_promoted_and_loaded_from_the_bucket(world, bucket, tmp_path):
    world.promoted("one", "@champion")
    digest = world.client.get_model_version("shelf", "1").tags["agent.content"]
    prefix = f"agents/agent-registry/sha256/{digest.removeprefix('sha256:')}/"
    assert world.client.get_model_version_download_uri("shelf", "1") == (
        f"s3://{bucket.name}/{prefix[:-1]}"
    )
    assert {f"{prefix}MLmodel", f"{prefix}agent/graph.py"} <= set(bucket.keys())
    source = tmp_path / "models" / "one" / "agent" / "graph.py"
    source.write_text("raise SystemExit\n")  # what it was registered from counts no more
    assert load().predict({"input": [{"role": "user", "content": "hi"}]})
    assert verify_registry(world.client).ok


@pytest.mark.parametrize("ending", ["agent/graph.py", "MLmodel"])
def test_an_object_that_was_overwritten_does_not_load_and_shows(world, bucket, tmp_path, ending):
    world.promoted("one", "@champion")
    bucket.overwrite(ending)
    with pytest.raises(MlflowException, match="promoted was"):
        load()
    assert not (tmp_path / "ran").exists()
    assert "copy was changed" in str(verify_registry(world.client))


def test_a_version_whose_object_was_overwritten_or_is_gone_is_not_promoted(world, bucket):
    version = world.register("one")
    world.ready(version, "@champion")
    bucket.overwrite("agent/graph.py")
    assert not gate_report("shelf", version, to="@champion", client=world.client).passed
    with pytest.raises(MlflowException, match="content"):
        promote("shelf", version, to="@champion", client=world.client)
    bucket.delete_all()
    with pytest.raises(MlflowException, match="content"):
        promote("shelf", version, to="@champion", client=world.client)


def test_what_lies_in_the_place_of_a_content_is_not_taken_for_it(world, bucket):
    world.register("one")
    digest = world.client.get_model_version("shelf", "1").tags["agent.content"]
    bucket.overwrite("agent/tools.py")
    with pytest.raises(MlflowException, match="copy was changed"):
        world.client.create_model_version("shelf", str(world.folder / "models" / "one"))
    assert len(world.client.search_model_versions("name='shelf'")) == 1
    assert digest.removeprefix("sha256:") in bucket.keys()[0]


def test_a_bucket_that_is_not_there_registers_nothing(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", "s3://nowhere")
    world = World(world.folder, world.registry_uri.replace("mlflow.db", "other.db"))
    with pytest.raises(MlflowException, match="bucket does not exist"):
        world.register("one")
    assert world.client.search_model_versions("name='shelf'") == []


class TestWriteOnce:
    """What `Vault.put` does with what lies there."""

    @pytest.fixture
    def content(self, world):
        return read_agent(world.model("one"))

    @pytest.fixture
    def vault(self, bucket):
        return Vault(f"s3://{bucket.name}/agents")

    @pytest.fixture
    def locking(self, world, content, monkeypatch):
        """Give the client of a store that has Object Lock."""
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        yield boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        server.stop()

    def test_an_object_that_lies_there_is_not_written_over(self, vault, content, bucket):
        key = vault.uri(content.digest).removeprefix(f"s3://{bucket.name}/") + "/agent/graph.py"
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"somebody was here")
        with pytest.raises(Exception, match="copy was changed"):
            vault.put(content)
        assert (
            bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
            == b"somebody was here"
        )

    def test_a_registration_that_died_half_way_is_completed(self, vault, content, bucket):
        uri = vault.put(content)
        written = bucket.keys()
        for ending in ("MLmodel", "agent/tools.py"):
            key = next(key for key in written if key.endswith(ending))
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
        assert vault.problem(content.digest)
        assert vault.put(content) == uri
        assert vault.problem(content.digest) is None

    def test_mlmodel_comes_last(self, vault, content, bucket):
        written = []

        def note(params, **_):
            written.append(params["Key"])

        repo, _ = repository(vault.root)
        events = repo._get_s3_client().meta.events  # MLflow keeps one client per process
        events.register("before-parameter-build.s3.PutObject", note)
        try:
            vault.put(content)
        finally:
            events.unregister("before-parameter-build.s3.PutObject", note)
        assert written[-1].endswith("/MLmodel")
        assert len(written) == len(content.files)

    def test_many_at_once_keep_one_copy(self, vault, content):
        start, problems = threading.Barrier(6), []

        def put():
            start.wait()
            try:
                vault.put(content)
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=put) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert vault.problem(content.digest) is None

    def test_where_there_is_object_lock_nobody_deletes_a_copy(self, content, locking):
        """On moto's server: Swift has no Object Lock."""
        client = locking
        name = "locked"
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        vault = Vault(f"s3://{name}")
        vault.put(content)
        found = client.list_object_versions(Bucket=name)["Versions"]
        assert len(found) == len(content.files)
        for item in found:
            hold = client.get_object_legal_hold(Bucket=name, Key=item["Key"])
            assert hold["LegalHold"]["Status"] == "ON"
        victim = found[0]
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=name, Key=victim["Key"], VersionId=victim["VersionId"])
        assert vault.problem(content.digest) is None

    def test_a_bucket_that_refuses_says_which_rights_are_needed(self, content, bucket):
        with pytest.raises(StoreError, match="s3:PutObject"):
            Vault("s3://nowhere").put(content)

    def test_storage_that_is_not_s3_gets_what_is_missing_only(self, tmp_path, content):
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        from mlflow_agent_plugin.registry.object_store import write_once

        repo = LocalArtifactRepository((tmp_path / "any").as_uri())
        there = tmp_path / "any" / "x" / "agent" / "graph.py"
        there.parent.mkdir(parents=True)
        there.write_text("kept")
        write_once(repo, "x", content.folder, [item.path for item in content.files])
        assert there.read_text() == "kept"
        there.write_bytes((content.folder / "agent" / "graph.py").read_bytes())
        assert digest_folder(tmp_path / "any" / "x")[0] == content.digest


def test_reviewers_see_what_a_version_changes_there_too(world):
    world.promoted("one")
    version = world.register("two")
    request_promotion("shelf", version, to="Production", client=world.client)
    tags = world.client.get_model_version("shelf", str(version)).tags
    assert "two" in tags["agent.diff.Production"] or "graph" in tags["agent.diff.Production"]


@pytest.mark.integration
def test_a_server_that_keeps_its_artifacts_in_a_bucket_writes_no_copy_for_a_client(
    tmp_path, monkeypatch, bucket
):
    """Every endpoint of MLflow's that writes, at the copy of a version in use."""
    server = Server(tmp_path, "--artifacts-destination", f"s3://{bucket.name}/all")
    try:
        world = remote_world(tmp_path, server, monkeypatch)
        world.register("one", GATE)
        uri = world.client.get_model_version_download_uri("shelf", "1")
        assert uri.startswith("mlflow-artifacts:/agent-registry/sha256/")
        path = uri.removeprefix("mlflow-artifacts:/")
        before = bucket.etags()
        assert f"all/{path}/MLmodel" in before
        api = f"{server.url}/api/2.0/mlflow-artifacts"
        part = {"path": "MLmodel", "num_parts": 1}
        answers = [
            requests.put(f"{api}/artifacts/{path}/MLmodel", data=b"evil", timeout=30),
            requests.put(f"{api}/artifacts/{path}/new.py", data=b"evil", timeout=30),
            requests.delete(f"{api}/artifacts/{path}", timeout=30),
            requests.delete(f"{api}/artifacts/agent-registry", timeout=30),
            requests.post(f"{api}/mpu/create/{path}", json=part, timeout=30),
        ]
        for place in (f"s3://{bucket.name}/all/{path}", f"s3://{bucket.name}/all/agent-registry"):
            experiment = world.client.create_experiment(place, artifact_location=place)
            run = world.client.create_run(experiment).info
            answers += [
                requests.post(
                    f"{server.url}/ajax-api/2.0/mlflow/upload-artifact",
                    params={"run_uuid": run.run_id, "path": "evil.py"}, data=b"evil", timeout=30,
                ),
            ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [403] * len(answers)
        assert bucket.etags() == before
        assert world.loads("1")
    finally:
        server.stop()


def test_nothing_is_downloaded_while_the_model_is_locked(world, monkeypatch):
    """Registering, showing what changes, approving (which promotes), rolling back."""
    download, locked = Vault._download, []

    def noted(vault, digest, target):
        locked.append(world.store._transactions.joined is not None)
        return download(vault, digest, target)

    monkeypatch.setattr(Vault, "_download", noted)
    world.promoted("one", "@champion")
    version = world.register("two")
    world.evaluate(version)
    request_promotion("shelf", version, to="@champion", client=world.client)
    shown = world.client.get_model_version("shelf", "2").tags["agent.diff.alias.champion"]
    assert "agent.yaml" in shown
    assert approve("shelf", version, to="@champion", by="alice", client=world.client).applied
    rollback("shelf", to="@champion", reason="hm hm", by="alice", client=world.client)
    assert locked
    assert not any(locked)
