"""Where the bytes behind an MLflow URI lie, and reading them there.

Rules:
- A server never fetches from ``http(s)``, ``ftp`` or the like because a client named it.
- Inside a server that proxies artifacts, ``mlflow-artifacts:/`` is its own storage, not a request
  to itself.
- Links are not followed.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow_agent_plugin.errors import IntegrityError

CONSOLE_VARIABLE = "_MLFLOW_AGENTS_CONSOLE"
"""Path of the review console on this server; the app that holds it sets it."""

_REMOTE = frozenset({"http", "https", "ftp", "sftp", "hdfs", "viewfs", "dbfs", "databricks"})


def resolve(source: str, *, tracking_uri: str | None = None) -> str:
    """Follow ``models:/m-…`` and ``runs:/…`` to the artifact URI behind them.

    Other URIs, and versions of registered models, are returned as they are.
    """
    scheme = urlparse(source).scheme
    if scheme == "models":
        from mlflow.store.artifact.utils.models import _parse_model_uri

        model_id = _parse_model_uri(source).model_id
        if model_id is not None:
            return str(tracking(tracking_uri).get_logged_model(model_id).artifact_location)
    if scheme == "runs":
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        run_id, path = RunsArtifactRepository.parse_runs_uri(source)
        root = str(tracking(tracking_uri).get_run(run_id).info.artifact_uri)
        return f"{root.rstrip('/')}/{path}"
    return source


def tracking(tracking_uri: str | None = None) -> Any:
    """Return the tracking store that belongs to this registry.

    Inside a server that is the server's own; else the one MLflow uses now, or `tracking_uri`.
    """
    handlers = in_server()
    if handlers is not None:
        return handlers._get_tracking_store()  # noqa: SLF001
    from mlflow.tracking._tracking_service.utils import _get_store

    return _get_store(tracking_uri)


def open_tracking(source: str) -> None:
    """Let MLflow open the tracking store it asks about `source`, before a transaction is open.

    In a server with workspaces, MLflow's registry opens one of its own, and that writes a default
    experiment: on sqlite it would wait for the very transaction it is called in.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES

    if in_server() is None or not MLFLOW_ENABLE_WORKSPACES.get():
        return
    if urlparse(source).scheme == "models":
        from mlflow import MlflowClient
        from mlflow.store.artifact.utils.models import _parse_model_uri

        with suppress(Exception):  # MLflow's own method says what is wrong with it
            model_id = _parse_model_uri(source).model_id
            if model_id is not None:
                MlflowClient().get_logged_model(model_id)


def may_read(location: str) -> bool:
    """Return False for places a server must not fetch from because a client named them."""
    scheme = urlparse(location).scheme.lower()
    handlers = in_server()
    if handlers is None:
        return scheme not in _REMOTE - {"http", "https"}
    if scheme == "mlflow-artifacts":
        return bool(handlers._is_servable_proxied_run_artifact_root(location))  # noqa: SLF001
    return scheme not in _REMOTE


def in_server() -> Any:
    """Return MLflow's handlers module if this process is a tracking server, else None."""
    if "_MLFLOW_SERVER_FILE_STORE" not in os.environ:
        return None
    return sys.modules.get("mlflow.server.handlers")


def console_path(name: str, version: int) -> str | None:
    """Return where this server's review console shows a version, None if it has no console."""
    from urllib.parse import quote

    base = os.environ.get(CONSOLE_VARIABLE)
    if in_server() is None or not base:
        return None
    return f"{base}/models/{quote(name, safe='')}/versions/{version}"


def repository(location: str) -> tuple[Any, str]:
    """Return the artifact repository of `location` and the path in it.

    Inside a server that proxies artifacts, ``mlflow-artifacts:/`` is its own storage.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    handlers = in_server()
    if (
        handlers is not None
        and urlparse(location).scheme == "mlflow-artifacts"
        and handlers._is_servable_proxied_run_artifact_root(location)  # noqa: SLF001
    ):
        path = handlers._get_proxied_run_artifact_destination_path(location)  # noqa: SLF001
        path = handlers._get_workspace_scoped_repo_path_if_enabled(path)  # noqa: SLF001
        return handlers._get_artifact_repo_mlflow_artifacts(), str(path)  # noqa: SLF001
    return get_artifact_repository(location), ""


def local_folder(location: str) -> Path | None:
    """Return the folder behind `location` if it lies on this machine, else None."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    repo, path = repository(location)
    if not isinstance(repo, LocalArtifactRepository):
        return None
    root = Path(repo.artifact_dir)
    found = root / path
    if ".." in found.parts[len(root.parts) :]:
        raise IntegrityError("leaves the artifact folder", where=location)
    return found


def fetch_file(location: str, path: str, into: Path, *, max_bytes: int) -> Path | None:
    """Copy one file below `location` to folder `into`; None if it is not there.

    Raises:
        IntegrityError: It is larger than `max_bytes`, or a link.
    """
    root = local_folder(location)
    if root is not None:
        found = root / path
        if found.is_symlink():
            raise IntegrityError("is a symbolic link", where=path)
        if not found.is_file():
            return None
        if found.stat().st_size > max_bytes:
            raise IntegrityError(f"is larger than {max_bytes:,} bytes", where=path)
        target = into / Path(path).name
        shutil.copyfile(found, target, follow_symlinks=False)
        return target
    repo, prefix = repository(location)
    full = f"{prefix}/{path}".lstrip("/")
    parent = full.rpartition("/")[0] or None
    listed = {item.path: item for item in repo.list_artifacts(parent)}
    entry = listed.get(full)
    if entry is None or entry.is_dir:
        return None
    if (entry.file_size or 0) > max_bytes:
        raise IntegrityError(f"is larger than {max_bytes:,} bytes", where=path)
    return Path(repo.download_artifacts(full, str(into)))
