"""Checks of what this package keeps: settings, keys, runtime store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.interaction.cli.doctor.check import Check, Health


def settings_row(name: str) -> Iterator[Check]:
    """Do the settings make sense, and who are you?"""
    settings = Settings.from_env()
    from mlflow_agent_plugin.trust import local_actor

    actor = local_actor(settings)
    roles = f" with roles {', '.join(sorted(actor.roles))}" if actor.roles else ""
    yield Check(
        name,
        Health.OK,
        f"environment {settings.environment}; you are {actor.user}@{actor.tenant}{roles}",
    )


def keys(name: str) -> Iterator[Check]:
    """Are the keys usable, and only yours?"""
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


def store(name: str) -> Iterator[Check]:
    """Can the runtime store be used, and is its schema the newest?"""
    where, revision, newest = store_revision()
    if revision is None:
        yield from not_made_yet(name, where)
    elif revision == newest:
        yield Check(name, Health.OK, f"{where}: revision {revision}")
    else:
        yield Check(
            name,
            Health.WARN,
            f"{where}: revision {revision}, newest known {newest}",
            "mlflow-agents db upgrade, or install the version that wrote it.",
        )


def not_made_yet(name: str, where: str) -> Iterator[Check]:
    """Say whether a database that is not there yet can be made."""
    path = Path(where.partition("///")[2] or "x")
    folder = path.parent if str(path.parent) else Path()
    if where.startswith("sqlite") and not os.access(folder, os.W_OK | os.X_OK):
        yield Check(name, Health.FAIL, f"{folder} cannot be written", "Create it, or set the URI.")
    else:
        yield Check(name, Health.OK, f"{where}: made on first use")
