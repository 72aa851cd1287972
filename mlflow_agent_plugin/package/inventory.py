"""Which files make up a bundle, and which make it unacceptable.

Rules:
- A bundle is the regular files below its root, named by NFC-normalised POSIX paths.
- Only `EXCLUDED` is left out: by-products of editors, Python and git. Nothing else is ignored, so
  nothing can hide from the digest.
- Symbolic links, devices, sockets and pipes are refused: what they lead to is not content.
- Names that are not UTF-8, hold a backslash or control character, or differ from another name only
  by case or Unicode normalisation are refused: such a bundle would not survive a copy to another
  machine.
- Size and number of files are bounded before anything is read.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from mlflow_agent_plugin.errors import BundleError

EXCLUDED = ("__pycache__", "*.pyc", ".git", ".DS_Store", ".ipynb_checkpoints")
"""Name patterns of files and folders that are neither digested nor copied."""

MAX_BUNDLE_BYTES = 2 * 1024**3
MAX_FILES = 20_000
MAX_DEPTH = 32


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle.

    Attributes:
        path: NFC-normalised path below the root, with forward slashes.
        location: Where the file lies on this machine.
        size: Bytes, when it was listed.
    """

    path: str
    location: Path
    size: int


def scan(root: Path) -> dict[str, FileEntry]:
    """List the files of the bundle at `root` by path, sorted; reads no content.

    Raises:
        BundleError: `root` is no folder or is empty, or a file in it breaks a rule of this module.
    """
    if not root.exists():
        raise BundleError(
            "no such folder",
            where=str(root),
            hint="Give the folder that holds agent.yaml.",
        )
    if not root.is_dir():
        raise BundleError("is not a folder", where=str(root), hint="Give the bundle's folder.")
    entries: dict[str, FileEntry] = {}
    spellings: dict[str, str] = {}
    total = 0
    for relative, location, size in _walk(root, ""):
        path = unicodedata.normalize("NFC", relative)
        _check_collision(root, path, relative, spellings)
        entries[path] = FileEntry(path, location, size)
        total += size
        if len(entries) > MAX_FILES:
            raise BundleError(
                f"holds more than {MAX_FILES:,} files",
                where=str(root),
                hint="Keep data sets outside the bundle.",
            )
        if total > MAX_BUNDLE_BYTES:
            raise BundleError(
                f"is larger than {MAX_BUNDLE_BYTES // 1024**3} GB",
                where=str(root),
                hint="Keep data sets and large models outside the bundle.",
            )
    if not entries:
        raise BundleError(
            "the bundle is empty", where=str(root), hint="It needs at least agent.yaml."
        )
    return dict(sorted(entries.items()))


def open_regular(location: Path, *, where: str) -> BinaryIO:
    """Open `location` for reading, refusing links and special files even if just put there.

    Raises:
        BundleError: The file is missing, unreadable or not a regular file.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(location, flags)
    except OSError as error:
        raise BundleError(
            f"cannot be read: {error.strerror}", where=where, hint="Check the file and its rights."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError("is not a regular file", where=where, hint="Remove it from the bundle.")
    return os.fdopen(descriptor, "rb")


def _walk(root: Path, prefix: str) -> Iterator[tuple[str, Path, int]]:
    folder = root / prefix if prefix else root
    if prefix.count("/") >= MAX_DEPTH:
        raise BundleError(
            f"folders are nested deeper than {MAX_DEPTH}",
            where=str(folder),
            hint="Flatten the bundle.",
        )
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise BundleError(
            f"cannot be listed: {error.strerror}",
            where=str(folder),
            hint="Check the folder's rights.",
        ) from error
    for child in children:
        if any(fnmatchcase(child.name, pattern) for pattern in EXCLUDED):
            continue
        _check_name(folder, child.name)
        relative = f"{prefix}/{child.name}" if prefix else child.name
        try:
            status = child.stat(follow_symlinks=False)
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}", where=child.path) from error
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                "symbolic links are not allowed in a bundle",
                where=child.path,
                hint="Put a copy of the file or folder in its place.",
            )
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, relative)
        elif stat.S_ISREG(status.st_mode):
            yield relative, Path(child.path), status.st_size
        else:
            raise BundleError(
                "only regular files are allowed in a bundle",
                where=child.path,
                hint="Remove this pipe, socket or device.",
            )


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "replace").decode()
        raise BundleError(
            f"file name {shown!r} is not UTF-8", where=str(folder), hint="Rename the file."
        ) from None
    if "\\" in name or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise BundleError(
            f"file name {name!r} holds a backslash or a control character",
            where=str(folder),
            hint="Rename the file: not every system can store such a name.",
        )


def _check_collision(root: Path, path: str, relative: str, spellings: dict[str, str]) -> None:
    """Refuse `path` if it, or a folder on the way to it, has a near-twin among `spellings`."""
    parts = relative.split("/")
    for end in range(1, len(parts) + 1):
        spelling = "/".join(parts[:end])
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFD", spelling).casefold())
        known = spellings.setdefault(key, spelling)
        if known != spelling:
            raise BundleError(
                f"{known!r} and {spelling!r} differ only by case or Unicode normalisation",
                where=str(root / path),
                hint="Rename one of them: on some systems they are the same file.",
            )
