"""The vault: the registry's own copy of every agent version, named by what it holds.

Rules:
- ``<root>/agent-registry/sha256/<hex>/`` holds one model folder; its name is its content digest.
- Written once: a copy is made aside, checked against the digest, then put in place in one step and
  made read-only. What is there is never written again; if it no longer fits its name, it is
  refused.
- The download URI of a version leads here, so that changing the run's or the logged model's
  artifacts afterwards changes nothing anybody loads.
- A decision reads and checks content of an object store before it locks anything: under the lock it
  only compares digests (see `Copies`).
- On this machine every hand-out checks the content again. In an object store nothing is written
  over (see `registry.object_store`), the bucket's own protection (Object Lock, a policy) has to
  keep it, and the gate checks at every promotion.
- Where the root is: ``MLFLOW_AGENTS_REGISTRY_CONTENT`` if set; inside a server, the artifact
  storage it serves; beside the database file for sqlite; else in ``~/.mlflow-agents``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.errors import AgentError, IntegrityError, StoreError
from mlflow_agent_plugin.package.model_folder import META_FILE, digest_folder
from mlflow_agent_plugin.registry import guard
from mlflow_agent_plugin.registry.content import AgentContent
from mlflow_agent_plugin.registry.object_store import write_once
from mlflow_agent_plugin.registry.places import in_server, local_folder, repository

_ALGORITHM = "sha256"


@dataclass(frozen=True)
class Vault:
    """Content-addressed storage below one artifact URI.

    Attributes:
        root: Artifact URI, as clients of this registry can read it.
    """

    root: str

    @classmethod
    def beside(cls, db_uri: str) -> Vault:
        """Return the vault of the registry in the database at `db_uri`."""
        configured = Settings.from_env().registry_content
        if configured:
            return cls(configured.rstrip("/"))
        handlers = in_server()
        if handlers is not None:
            if handlers._is_serving_proxied_artifacts():  # noqa: SLF001
                return cls("mlflow-artifacts:/")
            root = os.environ.get("_MLFLOW_SERVER_ARTIFACT_ROOT")
            if root:
                return cls(root.rstrip("/"))
        parsed = urlparse(db_uri)
        path = db_uri.partition(":///")[2].partition("?")[0]
        if parsed.scheme.startswith("sqlite") and path and path != ":memory:":
            return cls(f"{Path(path).resolve().parent.as_uri()}")
        return cls((Path("~").expanduser() / ".mlflow-agents").as_uri())

    @contextmanager
    def for_one_decision(self) -> Iterator[Copies]:
        """Give this vault for the length of one decision: each content is read and checked once."""
        with tempfile.TemporaryDirectory(prefix="agent-vault-") as scratch:
            yield Copies(self.root, Path(scratch))

    def uri(self, digest: str) -> str:
        """Return the artifact URI of the content with `digest`."""
        separator = "" if self.root.endswith("/") else "/"
        return f"{self.root}{separator}{guard.FOLDER}/{_ALGORITHM}/{_hex(digest)}"

    def put(self, content: AgentContent) -> str:
        """Keep a copy of `content`; return its URI.

        Raises:
            IntegrityError: There is something else in its place already.
            StoreError: It cannot be written.
        """
        uri = self.uri(content.digest)
        try:
            target = local_folder(uri)
            if target is None:
                self._put_remote(uri, content)
            elif not target.exists():
                _put_local(target, content)
        except OSError as error:
            raise StoreError(
                f"the registry cannot keep the content: {error.strerror or error}",
                where=uri,
                hint="Check the folder's rights, or set MLFLOW_AGENTS_REGISTRY_CONTENT.",
            ) from error
        problem = self.problem(content.digest)
        if problem is not None:
            raise IntegrityError(problem, where=uri)
        return uri

    def problem(self, digest: str, *, deep: bool = True) -> str | None:
        """Return what is wrong with the content of `digest`, None if it is as it was put there.

        Args:
            digest: Content digest.
            deep: Read it all even if it lies in an object store.
        """
        try:
            if not deep and local_folder(self.uri(digest)) is None:
                return None
            with self._fetched(digest) as folder:
                return _compare(folder, digest)
        except AgentError as error:
            return f"the registry's copy cannot be read: {error}"
        except ContentNeededError:
            raise
        except Exception as error:
            return f"the registry's copy cannot be read ({type(error).__name__})"

    @contextmanager
    def opened(self, digest: str) -> Iterator[Path]:
        """Give the content's folder on this machine, checked, for the length of the block.

        Raises:
            IntegrityError: It is not what was put there.
        """
        with self._fetched(digest) as folder:
            problem = _compare(folder, digest)
            if problem is not None:
                raise IntegrityError(problem, where=f"content {digest[:19]}…")
            yield folder

    @contextmanager
    def _fetched(self, digest: str) -> Iterator[Path]:
        folder = local_folder(self.uri(digest))
        if folder is not None:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="agent-vault-") as scratch:
            yield self._download(digest, Path(scratch))

    def _download(self, digest: str, target: Path) -> Path:
        uri = self.uri(digest)
        repo, path = repository(uri)
        try:
            return Path(repo.download_artifacts(path, str(target)))
        except Exception as error:
            raise IntegrityError(
                f"the registry's copy cannot be read ({type(error).__name__})", where=uri
            ) from error

    def _put_remote(self, uri: str, content: AgentContent) -> None:
        repo, path = repository(uri)
        with guard.own_writes():
            write_once(repo, path, content.folder, [item.path for item in content.files])


class ContentNeededError(Exception):
    """A decision under a lock needs content nobody has read yet: let go, read it, decide again.

    Attributes:
        digest: Which.
    """

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


@dataclass(frozen=True)
class Copies(Vault):
    """The vault during one decision.

    What lies in an object store is downloaded once, by `read`, while nothing is locked; asked for
    before that, `ContentNeededError` is raised. Names are digests, so what was checked stays true.

    Attributes:
        scratch: Folder for what was downloaded; gone after the decision.
    """

    scratch: Path
    _found: dict[str, Path] = field(default_factory=dict)
    _problems: dict[str, str | None] = field(default_factory=dict)

    def read(self, digest: str) -> None:
        """Download and check one content."""
        target = self.scratch / _hex(digest)
        target.mkdir()
        try:
            self._found[digest] = self._download(digest, target)
        except AgentError as error:
            self._problems[digest] = f"the registry's copy cannot be read: {error}"

    def know(self, content: AgentContent) -> None:
        """Take a content that was just put there as read."""
        self._found[content.digest] = content.folder
        self._problems[content.digest] = None

    def problem(self, digest: str, *, deep: bool = True) -> str | None:
        """As `Vault.problem`, answered once per decision."""
        if digest not in self._problems:
            self._problems[digest] = super().problem(digest, deep=deep)
        return self._problems[digest]

    @contextmanager
    def _fetched(self, digest: str) -> Iterator[Path]:
        folder = self._found.get(digest) or local_folder(self.uri(digest))
        if folder is None:
            if digest in self._problems:
                raise IntegrityError(
                    self._problems[digest] or "is gone", where=f"content {digest[:19]}…"
                )
            raise ContentNeededError(digest)
        yield folder


def _put_local(target: Path, content: AgentContent) -> None:
    staging = target.parent.parent / ".staging" / uuid.uuid4().hex
    try:
        for record in content.files:
            copy = staging / record.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content.folder / record.path, copy, follow_symlinks=False)
            copy.chmod(0o444)
        if digest_folder(staging)[0] != content.digest:
            raise IntegrityError("the content changed while it was copied", where=str(target))
        # MLflow writes this file into the folder it loads a model from, and fails if it cannot.
        (staging / META_FILE).write_text("{}\n", encoding="utf-8")
        (staging / META_FILE).chmod(0o666)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker; its copy is checked next
                raise
            return
        for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
            folder.chmod(0o555)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _compare(folder: Path, digest: str) -> str | None:
    if not folder.is_dir():
        return "the registry's copy is gone"
    found, _ = digest_folder(folder)
    if found != digest:
        return (
            f"the registry's copy was changed: it is {found[:19]}…, registered was {digest[:19]}…"
        )
    return None


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != _ALGORITHM or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise IntegrityError("is not a content digest", where=digest[:80])
    return value
