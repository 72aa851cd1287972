"""The digest of a whole model folder, MLmodel included.

MLmodel decides which code loads the rest, so a registry vouches for all of it. Left out are only
the two files that are written into a folder when a model is loaded from a registry: MLflow's own
note, and the registry's statement about this very digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.package.digest import hash_file
from mlflow_agent_plugin.package.inventory import scan

META_FILE = "registered_model_meta"
"""MLflow's note: which version of which model a folder was loaded as."""

PROMOTION_FILE = "agent-promotion.json"
"""Our note: the registry's signed statement by which it was loaded."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a model folder."""

    path: str
    sha256: str
    size: int


def digest_folder(folder: Path) -> tuple[str, tuple[FileRecord, ...]]:
    """Return the content digest of a model folder and its files.

    Raises:
        BundleError: The folder holds links, special files or names that do not travel.
    """
    files = tuple(
        FileRecord(path, *hash_file(entry.location, where=str(entry.location)))
        for path, entry in scan(folder).items()
        if path not in {META_FILE, PROMOTION_FILE}
    )
    digest = sha256_of_json(
        [{"path": item.path, "sha256": item.sha256, "size": item.size} for item in files]
    )
    return digest, files
