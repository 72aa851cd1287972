"""What `mlflow-agents doctor` looks at.

Rules:
- Looking changes nothing: no database, folder or key is made.
- A check that cannot be done is a failed check, never a passed one.
- Every row that is not ok says what to do.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.errors import AgentError

DISTRIBUTION = "mlflow-agent-plugin"
LOW_SPACE_BYTES = 2 * 1024**3
NO_SPACE_BYTES = 200 * 1024**2
_MOST_CHARS = 200


class Health(str, Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What was looked at.
        found: What is there.
        todo: What to do about it; empty when nothing is.
    """

    name: str
    status: Health
    found: str
    todo: str = ""

    @property
    def failed(self) -> bool:
        """True if something cannot work."""
        return self.status is Health.FAIL

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-ready dictionary."""
        return {
            "name": self.name,
            "status": self.status.value,
            "found": self.found,
            "todo": self.todo,
        }


def examine() -> list[Check]:
    """Run every check."""
    found: list[Check] = []
    for name, check in _CHECKS.items():
        try:
            found.extend(check(name))
        except Exception as error:
            hint = error.hint if isinstance(error, AgentError) else None
            found.append(Check(name, Health.FAIL, _said(error), hint or "Mend what it names."))
    return found


def _said(error: Exception) -> str:
    text = str(error)
    if isinstance(error, AgentError):
        text = error.problem if error.where is None else f"{error.where}: {error.problem}"
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0][:_MOST_CHARS]


# --- this machine --------------------------------------------------------------------------------


def _python(name: str) -> Iterator[Check]:
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata(DISTRIBUTION)["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield Check(name, Health.OK, version)
    else:
        yield Check(name, Health.FAIL, version, f"Use a Python {wanted}.")


def _packages(name: str) -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    good = 0
    for text in requires(DISTRIBUTION) or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            yield Check(name, Health.FAIL, f"{wanted.name} is missing", f"pip install '{text}'")
            continue
        if wanted.specifier.contains(installed, prereleases=True):
            good += 1
        else:
            yield Check(
                name,
                Health.WARN,
                f"{wanted.name} {installed} was not tested",
                f"pip install '{wanted.name}{wanted.specifier}'",
            )
    yield Check(name, Health.OK, f"{good} within the tested bounds")


def _extras(name: str) -> Iterator[Check]:
    from importlib.util import find_spec

    modules = {
        "postgres": "psycopg",
        "s3": "dvc_s3",
        "openai": "langchain_openai",
        "server": "flask_wtf",
    }
    found = {extra: find_spec(module) is not None for extra, module in modules.items()}
    have = ", ".join(extra for extra, there in found.items() if there) or "none"
    missing = ", ".join(extra for extra, there in found.items() if not there)
    yield Check(name, Health.OK, f"installed: {have}" + (f"; not: {missing}" if missing else ""))


def _space(name: str) -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1024**3:.1f} GB free in {Path.cwd()}"
    if free < NO_SPACE_BYTES:
        yield Check(name, Health.FAIL, text, "Make room: databases cannot be written soon.")
    elif free < LOW_SPACE_BYTES:
        yield Check(name, Health.WARN, text, "Make room.")
    else:
        yield Check(name, Health.OK, text)


# --- settings, keys, store -----------------------------------------------------------------------


def _settings(name: str) -> Iterator[Check]:
    settings = Settings.from_env()
    from mlflow_agent_plugin.trust import local_actor

    actor = local_actor(settings)
    roles = f" with roles {', '.join(sorted(actor.roles))}" if actor.roles else ""
    yield Check(
        name,
        Health.OK,
        f"environment {settings.environment}; you are {actor.user}@{actor.tenant}{roles}",
    )


def _keys(name: str) -> Iterator[Check]:
    from mlflow_agent_plugin.trust.keys import SIGNING_KEY_FILE, KeyPurpose, KeyStore

    folder = Settings.from_env().key_dir
    if not folder.exists():
        yield Check(name, Health.OK, f"{folder}: none yet, made on first use")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if os.name == "posix" and mode & 0o022:
        yield Check(
            name,
            Health.FAIL,
            f"others may write {folder} (mode {mode:o}): they could add a key you trust",
            f"chmod 700 {folder}",
        )
    store = KeyStore(folder)
    trusted = {key for purpose in (None, *KeyPurpose) for key in store.trusted_keys(purpose)}
    if not (folder / SIGNING_KEY_FILE).exists():
        yield Check(name, Health.OK, f"{folder}: {len(trusted)} trusted; signing key on first use")
        return
    own = store.signing_key().key_id
    yield Check(name, Health.OK, f"{folder}: signs as {own[:16]}…; {len(trusted)} trusted")


def store_revision(store_uri: str | None = None) -> tuple[str, str | None, str]:
    """Return a store's name, its schema's revision (None: not made) and the newest.

    Raises:
        AgentError: The URI makes no sense, or the database cannot be read.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    from mlflow_agent_plugin.errors import StoreError
    from mlflow_agent_plugin.store.schema import current_revision
    from mlflow_agent_plugin.store.tables import REVISIONS
    from mlflow_agent_plugin.store.urls import (
        is_memory,
        parse_store_url,
        safe_url,
        without_secrets,
    )

    url = parse_store_url(Settings.from_env().store_uri if store_uri is None else store_uri)
    where, newest = safe_url(url), REVISIONS[-1]
    is_sqlite = url.drivername.startswith("sqlite")
    if is_sqlite and (is_memory(url) or not Path(url.database or "").exists()):
        return where, None, newest
    engine = create_engine(url, connect_args={} if is_sqlite else {"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            return where, current_revision(connection), newest
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        first = without_secrets(str(cause), url).strip().splitlines()[0]
        raise StoreError(first, where=where, hint="Check that it runs and lets you in.") from error
    finally:
        engine.dispose()


def _store(name: str) -> Iterator[Check]:
    where, revision, newest = store_revision()
    if revision is None:
        yield from _not_made_yet(name, where)
    elif revision == newest:
        yield Check(name, Health.OK, f"{where}: revision {revision}")
    else:
        yield Check(
            name,
            Health.WARN,
            f"{where}: revision {revision}, newest known {newest}",
            "mlflow-agents db upgrade, or install the version that wrote it.",
        )


def _not_made_yet(name: str, where: str) -> Iterator[Check]:
    path = Path(where.partition("///")[2] or "x")
    folder = path.parent if str(path.parent) else Path()
    if where.startswith("sqlite") and not os.access(folder, os.W_OK | os.X_OK):
        yield Check(name, Health.FAIL, f"{folder} cannot be written", "Create it, or set the URI.")
    else:
        yield Check(name, Health.OK, f"{where}: made on first use")


# --- MLflow --------------------------------------------------------------------------------------

_FAST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@contextmanager
def _quickly() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _FAST}
    os.environ.update(_FAST)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shown(uri: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", uri)


def _missing_database(uri: str) -> str | None:
    """Return the file of a sqlite URI that does not exist yet: asking MLflow would make it."""
    path = uri.removeprefix("agents+").removeprefix("sqlite:///")
    return path if path != uri and not uri.startswith("http") and not Path(path).exists() else None


def _tracking(name: str) -> Iterator[Check]:
    import mlflow
    from mlflow import MlflowClient

    uri = str(mlflow.get_tracking_uri())
    if _missing_database(uri) is not None:
        yield from _not_made_yet(name, _shown(uri))
        return
    with _quickly():
        try:
            MlflowClient().search_experiments(max_results=1)
        except Exception as error:
            yield _unusable(name, "MLFLOW_TRACKING_URI", uri, error)
            return
    yield Check(name, Health.OK, _shown(uri))


def _registry(name: str) -> Iterator[Check]:
    import mlflow
    from mlflow import MlflowClient

    uri = str(mlflow.get_registry_uri())
    gated = uri.startswith("agents+")
    if _missing_database(uri) is not None:
        yield from _gated(name, uri, gated=gated, sure=True)
        return
    with _quickly():
        try:
            client = MlflowClient()
            client.search_registered_models(max_results=1)
            known = client.search_registered_models(
                "tags.`agent.rules.current` LIKE '%'", max_results=1
            )
        except Exception as error:
            yield _unusable(name, "MLFLOW_REGISTRY_URI", uri, error)
            return
    remote = uri.startswith(("http://", "https://"))
    yield from _gated(name, uri, gated=gated or (remote and bool(known)), sure=not remote)


def _gated(name: str, uri: str, *, gated: bool, sure: bool) -> Iterator[Check]:
    if gated:
        yield Check(name, Health.OK, f"{_shown(uri)}: gated")
    elif sure:
        yield Check(
            name,
            Health.WARN,
            f"{_shown(uri)}: NOT gated, anybody can promote anything",
            f"Set MLFLOW_REGISTRY_URI, e.g. to agents+{_shown(uri)}"
            if uri.startswith("sqlite")
            else "Set MLFLOW_REGISTRY_URI to a URI that starts with agents+.",
        )
    else:
        yield Check(
            name,
            Health.WARN,
            f"{_shown(uri)}: no agent registered yet, so a gate cannot be seen",
            "Start the server by `mlflow-agents server`, or with --registry-store-uri agents+…",
        )


def _unusable(name: str, setting: str, uri: str, error: Exception) -> Check:
    said, todo = _shown(_said(error)), f"Check {setting}."
    if "Max retries exceeded" in said:
        said = "no answer"
    elif "error code 401" in said:
        said, todo = "not logged in", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    return Check(name, Health.FAIL, f"{_shown(uri)}: {said}", todo)


def _entry_points(name: str) -> Iterator[Check]:
    from importlib.metadata import entry_points

    found = {
        point.name
        for point in entry_points(group="mlflow.model_registry_store")
        if point.value.startswith("mlflow_agent_plugin.")
    }
    if "agents+sqlite" in found:
        yield Check(name, Health.OK, f"{len(found)} registry schemes known to MLflow")
    else:
        yield Check(
            name,
            Health.FAIL,
            "MLflow does not know the registry scheme agents+sqlite",
            f"Install the package: pip install {DISTRIBUTION}",
        )


_CHECKS: dict[str, Callable[[str], Iterator[Check] | list[Any]]] = {
    "Python": _python,
    "packages": _packages,
    "extras": _extras,
    "plugin": _entry_points,
    "disk": _space,
    "settings": _settings,
    "keys": _keys,
    "runtime store": _store,
    "tracking": _tracking,
    "registry": _registry,
}
