"""No artifact writes into the vault through the server.

A tracking server writes and deletes artifacts for its clients: below the storage it proxies, and
wherever a client lets an experiment keep its artifacts. The vault lies in such a place too, so that
clients can read it by the same way; this module makes it read-only for them.

Rules:
- Installed in every worker while MLflow's server module is imported, before the first request, and
  only if the server's registry store is one of ours. From then on every artifact repository this
  process opens is guarded, whichever of MLflow's handlers asks for it.
- A write or delete is refused if its place is in the vault, is the vault, or holds it. Places are
  compared as they are, not as a client spells them: links and ``..`` followed, case ignored.
- Reading is MLflow's own code, untouched.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote, urlparse

FOLDER = "agent-registry"
_WRITES = (
    "log_artifact",
    "log_artifacts",
    "log_artifact_from_stream",
    "log_artifact_from_async_stream",
    "delete_artifacts",
    "create_multipart_upload",
    "complete_multipart_upload",
    "abort_multipart_upload",
    "create_presigned_upload_url",
    "upload_archived_trace_data_bytes",
    "upload_trace_data",
    "upload_attachment",
)
_STORAGE = ("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "_MLFLOW_SERVER_ARTIFACT_ROOT")
_own: ContextVar[bool] = ContextVar("vault_writes", default=False)


@contextmanager
def own_writes() -> Iterator[None]:
    """Let the vault itself write for the length of the block."""
    token = _own.set(True)
    try:
        yield
    finally:
        _own.reset(token)


def install() -> None:
    """Guard the artifact storage this process writes to if it is a server of ours."""
    handlers: Any = sys.modules.get("mlflow.server.handlers")
    if handlers is None or not _is_our_server():
        return
    from mlflow.store.artifact import artifact_repository_registry as module

    registry: Any = module._artifact_repository_registry  # noqa: SLF001 - where all handlers ask
    if not hasattr(registry, "guards_vault"):
        find = registry.get_artifact_repository

        def find_guarded(*args: Any, **kwargs: Any) -> Any:
            found = find(*args, **kwargs)
            return guarded(found) if _is_our_server() else found

        registry.get_artifact_repository = find_guarded
        registry.guards_vault = True
    if getattr(handlers, "_artifact_repo", None) is not None:
        handlers._artifact_repo = guarded(handlers._artifact_repo)  # noqa: SLF001


def guarded(repo: Any) -> Any:
    """Return `repo` with writes into the vault refused."""
    kind = type(repo)
    if kind.__dict__.get("guards_vault"):
        return repo
    members: dict[str, Any] = {"guards_vault": True}
    for name in _WRITES:
        if hasattr(kind, name):
            members[name] = _refusing(name, kind)
    repo.__class__ = type(f"Guarded{kind.__name__}", (kind,), members)
    return repo


def touches_vault(uri: str) -> bool:
    """Return True if writing to or deleting the artifact URI `uri` could change the vault."""
    place = _place(uri)
    configured = os.environ.get("MLFLOW_AGENTS_REGISTRY_CONTENT")
    if configured:
        vault = _place(posixpath.join(configured, FOLDER))
        if _below(place, vault) is not None or _below(vault, place) is not None:
            return True
    for root in (_place(os.environ[name]) for name in _STORAGE if os.environ.get(name)):
        path = _below(place, root)
        if path is None:
            if _below(root, place) is not None:
                return True
        elif _leads_to_vault([part for part in path.split("/") if part]):
            return True
    return False


def _leads_to_vault(parts: list[str]) -> bool:
    """Say whether a path below the storage a server proxies is in the vault, or holds it."""
    if len(parts) >= 2 and parts[0] == "workspaces":
        parts = parts[2:]
    elif parts == ["workspaces"]:
        return True
    return not parts or parts[0] == FOLDER


def _place(uri: str) -> str:
    """Return the one spelling of where an artifact URI leads."""
    parsed = urlparse(uri)
    if parsed.scheme == "mlflow-artifacts":
        root = os.environ.get(_STORAGE[0])
        if root:
            return _place(posixpath.join(root, _clean(parsed.path).lstrip("/")))
    if len(parsed.scheme) < 2 or parsed.scheme == "file":
        path = unquote(parsed.path) if parsed.scheme == "file" else uri
        return f"file://{_clean(os.path.realpath(path))}"
    return f"{parsed.scheme}://{parsed.netloc}{_clean(parsed.path)}".casefold()


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.replace("\\", "/")).replace("//", "/").casefold()


def _below(place: str, root: str) -> str | None:
    """Return the path from `root` to `place`, None if it is not below."""
    root = root.rstrip("/")
    if place.rstrip("/") == root:
        return ""
    return place[len(root) + 1 :] if place.startswith(f"{root}/") else None


def _is_our_server() -> bool:
    return os.environ.get("_MLFLOW_SERVER_REGISTRY_STORE", "").startswith("agents+")


def _refusing(name: str, kind: type) -> Any:
    signature = inspect.signature(getattr(kind, name))

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _own.get():
            _check(self, signature.bind(self, *args, **kwargs).arguments)
        return getattr(super(type(self), self), name)(*args, **kwargs)

    method.__name__ = name
    return method


def _check(repo: Any, arguments: dict[str, Any]) -> None:
    path = str(arguments.get("artifact_path") or "")
    file = arguments.get("local_file") or arguments.get("artifact_file_name")
    if file is not None:
        path = posixpath.join(path, posixpath.basename(str(file)))
    root = str(repo.artifact_uri).partition("?")[0]
    if touches_vault(posixpath.join(root, path.replace("\\", "/"))):
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

        raise MlflowException(
            f"'{path or root}' is kept by the agent registry and cannot be written or deleted.",
            error_code=PERMISSION_DENIED,
        )
