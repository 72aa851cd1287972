"""The agent `mlflow-agents init` starts people off with.

`agent/` is a bundle as it stands, named order_desk, with a suite beside it; writing it under
another name replaces that word. Nothing appears under the wanted name before it is complete.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from mlflow_agent_plugin.errors import BundleError

TEMPLATE = Path(__file__).parent
TEMPLATE_NAME = "order_desk"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_BY_PRODUCTS = ("__pycache__", "*.pyc", ".*")


def write_agent(name: str, parent: Path) -> tuple[Path, Path]:
    """Write the template into the folder `name` below `parent`, and its suite beside it.

    Returns:
        The agent's folder and the suite's file.

    Raises:
        BundleError: `name` is no agent name, or one of the two is there already.
    """
    if _NAME.fullmatch(name) is None:
        raise BundleError(
            f"{name!r} is not an agent name",
            hint="Use letters, digits, - and _, beginning with a letter.",
        )
    folder, suite = parent / name, parent / f"{name}-suite.yaml"
    for path in (folder, suite):
        if path.exists():
            raise BundleError("is there already", where=str(path), hint="Give another name.")
    try:
        with tempfile.TemporaryDirectory(prefix=".init-", dir=parent) as temporary:
            draft = Path(temporary) / name
            shutil.copytree(TEMPLATE / "agent", draft, ignore=shutil.ignore_patterns(*_BY_PRODUCTS))
            draft_suite = Path(temporary) / suite.name
            shutil.copyfile(TEMPLATE / "suite.yaml", draft_suite)
            for path in [*draft.rglob("*"), draft_suite]:
                if path.is_file():
                    path.write_text(path.read_text("utf-8").replace(TEMPLATE_NAME, name), "utf-8")
            draft_suite.rename(suite)
            draft.rename(folder)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(parent)) from error
    return folder, suite
