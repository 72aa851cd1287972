"""Database URLs: which are accepted, and how they are written where people can read them.

Rules:
- sqlite and PostgreSQL only; ``postgres://`` and ``postgresql://`` mean psycopg 3.
- ``sqlite://`` and ``sqlite:///:memory:`` are a database of this process, gone when it is closed.
- A URL in an error or a log never holds a password, wherever in the URL it stood.
"""

from __future__ import annotations

import uuid

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from mlflow_agent_plugin.errors import ConfigError

_SECRET_PARAMETERS = ("password", "sslpassword", "passfile", "sslkey")


def parse_store_url(uri: str) -> URL:
    """Return the SQLAlchemy URL of a store URI, with the driver this package uses.

    Raises:
        ConfigError: `uri` is no database URL, or one of a database that is not supported.
    """
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as error:
        # The text itself is not repeated: a half-typed URL still holds its password.
        raise ConfigError(
            "the store URI is not a database URL",
            where="MLFLOW_AGENTS_STORE_URI",
            hint="Write sqlite:///path/agents.db or postgresql://user:password@host/database",
        ) from error
    backend = url.drivername.split("+", 1)[0]
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url.set(drivername="sqlite+pysqlite")
    raise ConfigError(
        f"{backend!r} cannot hold the runtime store",
        where="MLFLOW_AGENTS_STORE_URI",
        hint="Use sqlite or postgresql.",
    )


def is_memory(url: URL) -> bool:
    """Say whether `url` is an in-memory SQLite database."""
    return url.drivername.startswith("sqlite") and url.database in (None, "", ":memory:")


def shared_memory_url(url: URL) -> URL:
    """Return a URL under which every connection of this process sees one in-memory database.

    SQLite's plain ``:memory:`` is a database per connection; its ``memdb`` VFS shares one by name.
    """
    return url.set(database=f"file:/{uuid.uuid4().hex}").update_query_dict(
        {"vfs": "memdb", "uri": "true"}
    )


def safe_url(url: URL) -> str:
    """Return `url` for people to read: without any password."""
    hidden = {name: "***" for name in _SECRET_PARAMETERS if name in url.query}
    readable = url.set(drivername=url.drivername.split("+", 1)[0]).update_query_dict(hidden)
    return readable.render_as_string(hide_password=True)


def without_secrets(text: str, url: URL) -> str:
    """Return the driver's message `text` with every password of `url` taken out."""
    secrets = [url.password, *(url.query.get(name) for name in _SECRET_PARAMETERS)]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text
