"""No artifact writes into the vault through the server.

A tracking server that proxies artifacts lets every client write and delete anything below its
artifact storage. The vault lies there too, so that clients can read it by the same way; this module
makes that one folder read-only for them.

Rules:
- Installed in every worker while MLflow's server module is imported, before the first request, and
  only if the server's registry store is one of ours.
- A write or delete is refused if its path is in the vault, is the vault, or holds it.
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
)
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
    """Guard this process's artifact storage if it is a server of ours."""
    handlers = sys.modules.get("mlflow.server.handlers")
    registry = os.environ.get("_MLFLOW_SERVER_REGISTRY_STORE", "")
    destination = os.environ.get("_MLFLOW_SERVER_ARTIFACT_DESTINATION")
    if handlers is None or not registry.startswith("agents+") or not destination:
        return
    if getattr(handlers, "_artifact_repo", None) is not None:
        handlers._artifact_repo = guarded(handlers._artifact_repo)  # type: ignore[attr-defined]  # noqa: SLF001
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    handlers._artifact_repo = guarded(get_artifact_repository(destination))  # type: ignore[attr-defined]  # noqa: SLF001


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


def touches_vault(path: str) -> bool:
    """Return True if writing to or deleting `path` could change the vault."""
    parts = [part for part in posixpath.normpath(path.replace("\\", "/")).split("/") if part != "."]
    parts = [part.casefold() for part in parts if part]
    if len(parts) >= 2 and parts[0] == "workspaces":
        parts = parts[2:]
    elif parts == ["workspaces"]:
        return True
    return not parts or parts[0] == FOLDER or ".." in parts


def _refusing(name: str, kind: type) -> Any:
    signature = inspect.signature(getattr(kind, name))

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _own.get():
            _check(signature.bind(self, *args, **kwargs).arguments)
        return getattr(super(type(self), self), name)(*args, **kwargs)

    method.__name__ = name
    return method


def _check(arguments: dict[str, Any]) -> None:
    path = str(arguments.get("artifact_path") or "")
    file = arguments.get("local_file") or arguments.get("artifact_file_name")
    if file is not None:
        path = posixpath.join(path, posixpath.basename(str(file)))
    if touches_vault(path):
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

        raise MlflowException(
            f"'{path}' is kept by the agent registry and cannot be written or deleted.",
            error_code=PERMISSION_DENIED,
        )
