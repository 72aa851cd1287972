"""Writes the default pack into a bundle's policy folder.

Rules:
- Policies that are there are replaced only if the caller says so; roles declared so far are kept.
- The new policies and their tests are checked in a copy of the bundle first. If they do not pass,
  nothing is changed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.errors import PolicyError
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.trust.policy.check import check_policies
from mlflow_agent_plugin.trust.policy.scaffold import DEFAULT_ROLE, scaffold_policies
from mlflow_agent_plugin.trust.policy.sources import (
    CEDAR_FILES,
    ROLES_FILE,
    TESTS_FILE,
    RolesFile,
    read_document,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.policy.check import PolicyCheck


_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")


def write_scaffold(
    root: str | Path, *, role: str = DEFAULT_ROLE, replace: bool = False
) -> tuple[Path, PolicyCheck]:
    """Write the default pack for the bundle at `root`.

    Args:
        root: The bundle's folder.
        role: Who answers approvals.
        replace: Replace policies that are there.

    Returns:
        The policy folder, and the check that its files passed.

    Raises:
        PolicyError: There are policies and `replace` is not set, `role` is no role name, a contract
            needs an example, or the folder cannot be written.
        BundleError: The bundle itself is wrong.
    """
    if not _ROLE.fullmatch(role):
        raise PolicyError(
            f"{role!r} is no role name", hint="Use letters, digits, hyphens, dots and underscores."
        )
    bundle = load_bundle(root)
    folder = Path(bundle.root) / bundle.manifest.policies.path
    there = [name for name in (*CEDAR_FILES, TESTS_FILE) if (folder / name).exists()]
    if there and not replace:
        raise PolicyError(
            f"is there already ({', '.join(there)})",
            where=str(folder),
            hint="Move your own rules aside, or replace everything with --force.",
        )
    files = scaffold_policies(
        bundle.contracts,
        tools=bundle.manifest.usable_tools(),
        role=role,
        roles=_declared(folder),
    )
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary) / "bundle"
        shutil.copytree(bundle.root, draft)
        _write(draft / bundle.manifest.policies.path, files)
        check_policies(load_bundle(draft))
    try:
        _write(folder, files)
    except OSError as error:
        raise PolicyError(f"cannot be written: {error.strerror}", where=str(folder)) from error
    return folder, check_policies(load_bundle(root))


def _declared(folder: Path) -> Mapping[str, str]:
    path = folder / ROLES_FILE
    if not path.exists():
        return {}
    file, _ = read_document(path.read_text("utf-8"), RolesFile, name=str(path))
    return file.roles


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
