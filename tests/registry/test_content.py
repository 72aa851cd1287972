"""What a version holds, where it is kept, and who may write there."""

from __future__ import annotations

import io
import stat
import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_agent_plugin.errors import IntegrityError, StoreError
from mlflow_agent_plugin.package.model_folder import digest_folder
from mlflow_agent_plugin.registry import guard
from mlflow_agent_plugin.registry.content import open_agent, read_agent
from mlflow_agent_plugin.registry.places import may_read
from mlflow_agent_plugin.registry.vault import Vault


@pytest.fixture
def content(world):
    return read_agent(world.model("one"))


class TestContent:
    def test_every_file_counts_but_the_one_mlflow_writes_when_it_loads(self, world):
        folder = world.model("one")
        digest, files = digest_folder(folder)
        assert {"MLmodel", "requirements.txt", "agent/agent.yaml"} <= {item.path for item in files}
        (folder / "registered_model_meta").write_text("model_name: x")
        assert digest_folder(folder)[0] == digest
        for path in ("MLmodel", "requirements.txt", "agent/graph.py"):
            before = (folder / path).read_bytes()
            (folder / path).write_bytes(before + b"\n")
            assert digest_folder(folder)[0] != digest
            (folder / path).write_bytes(before)
        (folder / "agent" / "registered_model_meta").write_text("not MLflow's")
        assert digest_folder(folder)[0] != digest

    def test_what_is_no_agent_or_not_there_is_nobodys_business(self, world):
        world.ordinary()
        for place in ("ordinary/model", "nowhere", "../../etc"):
            with open_agent(str(world.folder / place)) as found:
                assert found is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "flavors: x",
            "flavors: {agent: x",
            "a: &a [*a]",
            "\x00",
            "flavors: {agent: {}}",
        ],
    )
    def test_a_hostile_mlmodel_is_no_agent_or_a_clear_error(self, world, text):
        folder = world.folder / "hostile"
        folder.mkdir()
        (folder / "MLmodel").write_text(text)
        if text == "flavors: {agent: {}}":
            with pytest.raises(IntegrityError, match="flavors"), open_agent(str(folder)):
                pass
            return
        with open_agent(str(folder)) as found:
            assert found is None

    def test_an_edited_bundle_is_refused(self, world):
        folder = world.model("one")
        with (folder / "agent" / "graph.py").open("a") as file:
            file.write("\nimport os\n")
        with pytest.raises(IntegrityError, match="digest") as caught, open_agent(str(folder)):
            pass
        assert "/tmp" not in str(caught.value)

    def test_a_server_fetches_from_nowhere_a_client_names(self, monkeypatch):
        import mlflow.server.handlers  # noqa: F401 - as in a server

        assert may_read("http://127.0.0.1/secret")  # one's own process, one's own risk
        monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", "sqlite:///x")
        for place in ("http://169.254.169.254/", "https://x/y", "HTTP://x", "ftp://x", "hdfs://x",
                      "mlflow-artifacts://evil:80/x"):  # fmt: skip
            assert not may_read(place), place
        for place in ("s3://bucket/x", "/local/path", "file:///local"):
            assert may_read(place), place


class TestVault:
    def test_what_is_put_is_read_only_and_named_by_its_digest(self, world, content):
        vault = Vault((world.folder / "v").as_uri())
        uri = vault.put(content)
        folder = Path(uri.removeprefix("file://"))
        assert folder.name == content.digest.removeprefix("sha256:")
        assert digest_folder(folder)[0] == content.digest
        assert stat.S_IMODE((folder / "MLmodel").stat().st_mode) == 0o444
        assert stat.S_IMODE((folder / "agent").stat().st_mode) == 0o555
        assert vault.put(content) == uri
        assert list((world.folder / "v" / "agent-registry" / ".staging").iterdir()) == []

    def test_many_at_once_keep_one_copy(self, world, content):
        vault = Vault((world.folder / "v").as_uri())
        start, problems = threading.Barrier(8), []

        def put():
            start.wait()
            try:
                vault.put(content)
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert vault.problem(content.digest) is None

    @pytest.mark.parametrize("how", ["change", "add", "remove", "link"])
    def test_a_copy_that_no_longer_fits_its_name_is_refused_not_repaired(self, world, content, how):
        vault = Vault((world.folder / "v").as_uri())
        folder = Path(vault.put(content).removeprefix("file://"))
        folder.chmod(0o755)
        target = folder / "requirements.txt"
        target.chmod(0o644)
        if how == "change":
            target.write_text("evil==1.0\n")
        elif how == "add":
            (folder / "sitecustomize.py").write_text("")
        else:
            target.unlink()
            if how == "link":
                target.symlink_to("/etc/hosts")
        assert vault.problem(content.digest)
        with pytest.raises(IntegrityError):
            vault.put(content)

    def test_content_that_is_gone_is_a_problem(self, world):
        vault = Vault((world.folder / "v").as_uri())
        assert "gone" in str(vault.problem("sha256:" + "0" * 64))
        assert vault.problem("sha256:../../etc")
        assert vault.problem("md5:x")

    def test_a_place_that_cannot_be_written_is_a_clear_error(self, world, content):
        (world.folder / "file").write_text("x")
        with pytest.raises(StoreError, match="MLFLOW_AGENTS_REGISTRY_CONTENT"):
            Vault((world.folder / "file").as_uri()).put(content)

    def test_where_it_is(self, monkeypatch, tmp_path):
        assert Vault.beside(f"sqlite:///{tmp_path}/r.db").root == tmp_path.as_uri()
        assert Vault.beside("sqlite://").root.endswith("/.mlflow-agents")
        assert Vault.beside("postgresql://u:p@h/d").root.endswith("/.mlflow-agents")
        monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", "s3://bucket/registry/")
        assert Vault.beside("sqlite:///x.db").uri("sha256:" + "a" * 64) == (
            "s3://bucket/registry/agent-registry/sha256/" + "a" * 64
        )


class TestGuard:
    @pytest.fixture(autouse=True)
    def server(self, monkeypatch, tmp_path):
        """A server of this registry that keeps artifacts below `tmp_path`/root."""
        monkeypatch.delenv("MLFLOW_AGENTS_REGISTRY_CONTENT", raising=False)
        monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "root"))
        monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", "agents+sqlite:///x")

    @pytest.mark.parametrize(
        "path",
        ["agent-registry", "agent-registry/sha256/x", "Agent-Registry/x", "./agent-registry",
         "x/../agent-registry/y", "workspaces/blue/agent-registry/x", "workspaces/blue", "workspaces",
         "", ".", "..", "x/../..", "agent-registry\\x"],
    )  # fmt: skip
    def test_places_in_the_vault_and_above_it_are_guarded(self, path, tmp_path):
        assert guard.touches_vault(f"{tmp_path}/root/{path}")
        assert guard.touches_vault(f"file://{tmp_path}/root/{path}")
        assert guard.touches_vault(f"mlflow-artifacts:/{path}")

    @pytest.mark.parametrize(
        "path", ["0/run/artifacts/x", "models/agent-registry/x", "agent-registry2", "../other/x"]
    )
    def test_others_are_not(self, path, tmp_path):
        assert not guard.touches_vault(f"{tmp_path}/root/{path}")

    def test_a_link_into_the_vault_is_the_vault(self, tmp_path):
        (tmp_path / "root" / "agent-registry").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "root" / "agent-registry")
        assert guard.touches_vault(f"file://{tmp_path}/link/sha256")
        assert guard.touches_vault(f"file://{tmp_path}/root/agent%2Dregistry")

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            ("{root}/deep/er", "{root}/deep/er/agent-registry/sha256"),
            ("{root}/deep/er", "{root}/deep"),
            ("mlflow-artifacts:/deep", "{root}/deep/agent-registry/x"),
            ("s3://bucket/reg/", "s3://bucket/reg/agent-registry/sha256/ab"),
            ("s3://bucket/reg", "s3://bucket/reg"),
            ("s3://bucket/reg", "s3://bucket"),
        ],
    )
    def test_the_vault_is_guarded_wherever_it_was_put(self, monkeypatch, tmp_path, content, place):
        root = str(tmp_path / "root")
        monkeypatch.setenv("MLFLOW_AGENTS_REGISTRY_CONTENT", content.format(root=root))
        assert guard.touches_vault(place.format(root=root))
        assert not guard.touches_vault("s3://other/reg/agent-registry")
        assert not guard.touches_vault("s3://bucket/reg2/agent-registry")

    def test_a_guarded_repository_refuses_every_way_to_write_there(self, tmp_path):
        import asyncio

        root, file = tmp_path / "root", tmp_path / "x.txt"
        file.write_text("x")
        repo = guard.guarded(LocalArtifactRepository(root.as_uri()))
        assert guard.guarded(repo) is repo
        assert isinstance(repo, LocalArtifactRepository)

        async def stream():
            yield b"x"

        attempts = [
            lambda: repo.log_artifact(str(file), "agent-registry/sha256"),
            lambda: repo.log_artifact(str(file), artifact_path="agent-registry"),
            lambda: repo.log_artifacts(str(tmp_path), "agent-registry"),
            lambda: repo.log_artifact_from_stream(io.BytesIO(b"x"), "f", "agent-registry/x"),
            lambda: asyncio.run(
                repo.log_artifact_from_async_stream(stream(), "f", "agent-registry")
            ),
            lambda: repo.delete_artifacts("agent-registry/sha256"),
            lambda: repo.delete_artifacts("agent-registry"),
            repo.delete_artifacts,
        ]
        for attempt in attempts:
            with pytest.raises(MlflowException, match="kept by the agent registry"):
                attempt()
        assert not (root / "agent-registry").exists()
        repo.log_artifact(str(file), "run/artifacts")
        asyncio.run(repo.log_artifact_from_async_stream(stream(), "f", "run"))
        repo.delete_artifacts("run/f")
        assert [item.path for item in repo.list_artifacts("run")] == ["run/artifacts"]
        with guard.own_writes():
            repo.log_artifact(str(file), "agent-registry")
        assert (root / "agent-registry" / "x.txt").exists()

    def test_it_is_installed_in_servers_of_this_registry_only(self, monkeypatch, tmp_path):
        from mlflow.server import handlers
        from mlflow.store.artifact import artifact_repository_registry as repositories

        registry = repositories._artifact_repository_registry
        monkeypatch.setattr(handlers, "_artifact_repo", None)
        # put back after the test, whatever is set here
        monkeypatch.setattr(registry, "get_artifact_repository", registry.get_artifact_repository)
        monkeypatch.setattr(registry, "guards_vault", True, raising=False)
        del registry.guards_vault
        place = f"{tmp_path}/root/agent-registry"
        monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", "sqlite:///x")
        guard.install()
        assert not hasattr(registry, "guards_vault")
        monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", "agents+sqlite:///x")
        guard.install()
        guard.install()
        for repo in (
            handlers._get_artifact_repo_mlflow_artifacts(),
            repositories.get_artifact_repository(f"file://{place}/sha256/x/run/artifacts"),
            handlers._get_artifact_repository_for_uri(place),
        ):
            with pytest.raises(MlflowException, match="kept by the agent registry"):
                repo.delete_artifacts("agent-registry")
        monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", "sqlite:///x")
        assert not hasattr(repositories.get_artifact_repository(place), "guards_vault")
