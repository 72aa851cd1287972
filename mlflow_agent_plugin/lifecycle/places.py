"""Addresses that mean the same in every process, whatever folder it works in."""

from __future__ import annotations

from pathlib import Path

_SQLITE = "sqlite:///"


def absolute_uri(uri: str, *, base: str | Path | None = None) -> str:
    """Return `uri` with a relative path in it made absolute; others stay as they are.

    >>> absolute_uri("agents+sqlite:///mlflow.db", base="/srv")
    'agents+sqlite:////srv/mlflow.db'
    >>> absolute_uri("https://mlflow.example.org")
    'https://mlflow.example.org'

    Args:
        uri: Address of a tracking server, registry or store: a URL, or a folder.
        base: What it is relative to; default: the current folder.
    """
    folder = Path.cwd() if base is None else Path(base)
    scheme, found, rest = uri.partition(_SQLITE)
    if found and scheme in ("", "agents+"):
        path, question, options = rest.partition("?")
        if path and path != ":memory:" and not path.startswith(("/", "file:")):
            return f"{scheme}{_SQLITE}{folder / path}{question}{options}"
        return uri
    if "://" in uri or uri.startswith("file:") or uri in ("databricks", "databricks-uc", "uc"):
        return uri
    return str(folder / uri)
