"""Private copies of models on this machine, and when they go.

Rules:
- A copy lives as long as the agent that was loaded from it, and never longer than the process that
  made it. A process that is killed leaves its copies to whoever cleans the temporary folder.
- A process that was forked from the maker leaves them alone.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

_lock = threading.Lock()
_made: dict[Path, int] = {}
"""Folder to the process that made it."""


def new_copy_folder(prefix: str = "agent-") -> Path:
    """Return a new empty folder that is removed at the latest when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    with _lock:
        if not _made:
            atexit.register(_remove_all)
        _made[folder] = os.getpid()
    return folder


def keep_while(user: object, path: Path) -> None:
    """Remove the copy `path` lies in once `user` is no longer used; other folders are not ours."""
    with _lock:
        root = next((each for each in (path, *path.parents) if each in _made), None)
    if root is not None:
        weakref.finalize(user, _remove, root).atexit = False  # that is `_remove_all`'s


def _remove(folder: Path) -> None:
    with _lock:
        maker = _made.pop(folder, None)
    if maker == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _remove_all() -> None:
    for folder in list(_made):
        _remove(folder)
