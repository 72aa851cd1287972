"""Finds the data the project trains and tests on, and says which it was.

Rules:
- BANKING77 is looked for in this order: the folder ``MLFLOW_AGENTS_DATA_DIR`` names,
  ``../shared/data`` beside the checkout, the cache of an earlier download, a download from its
  public repository, and last the small set that was written for this project.
- A file of BANKING77 is used only if it has the pinned SHA-256; another content is an error, never
  a silent substitute. A folder that was named but is not there is an error too.
- No text of a public data set is part of this project.

docs/reference/data.md lists sources and licences.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.playbook import OUT_OF_SCOPE

if TYPE_CHECKING:
    import pandas as pd

DATA_DIR_VARIABLE = "MLFLOW_AGENTS_DATA_DIR"
"""Environment variable that names the folder of the public data sets."""

DOWNLOAD_VARIABLE = "MLFLOW_AGENTS_DOWNLOAD"
"""Environment variable; ``false`` keeps the pipeline from downloading anything."""

BANKING77_URL = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
)
BANKING77_SHA256: Mapping[str, str] = {
    "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}
CLINC150_SHA256 = "85ffc53e88876cea5280ed07abd3fd9f8ad1fcab18bb694a17b2306ee399dfac"

SMALL_SET = Path(__file__).parent / "small_set"

_TABLE_HINT = "Give a CSV file in UTF-8 with the columns text and category."
_DOWNLOAD_TIMEOUT_SECONDS = 10.0
_LARGEST_DOWNLOAD_BYTES = 10 * 1024**2

Split = Literal["train", "test"]


@dataclass(frozen=True)
class DataSource:
    """Where a data set comes from.

    Attributes:
        name: ``banking77``, ``clinc150`` or ``small_set``.
        folder: Where its files are.
        how: ``folder``, ``cache``, ``download`` or ``project``.
        licence: SPDX name.
        sha256: SHA-256 by file name.
        why: For the small set: why nothing better was found.
    """

    name: str
    folder: Path
    how: Literal["folder", "cache", "download", "project"]
    licence: str
    sha256: Mapping[str, str]
    why: str = ""

    @property
    def statement(self) -> str:
        """One sentence that says which data were used."""
        if self.name == "small_set":
            return (
                "Data: the small set written for this project (77 intents, CC0), because "
                f"{self.why or 'it was asked for'}."
            )
        way = {"folder": "from", "cache": "from the cache", "download": "downloaded to"}[self.how]
        title = {"banking77": "BANKING77", "clinc150": "CLINC150"}[self.name]
        return f"Data: {title} ({self.licence}), {way} {self.folder}."

    def to_dict(self) -> dict[str, Any]:
        """Return what a card says about the data: no path, so that it is the same everywhere."""
        return {"name": self.name, "licence": self.licence, "sha256": dict(self.sha256)}


def find_data_dir() -> Path | None:
    """Return the folder of the public data sets, None if there is none.

    Raises:
        DataError: The environment names a folder that does not exist.
    """
    named = os.environ.get(DATA_DIR_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{named} is not a folder",
                where=DATA_DIR_VARIABLE,
                hint="Name the folder that holds banking77/, or unset the variable.",
            )
        return folder
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


def find_banking77(*, download: bool = True) -> DataSource:
    """Return where BANKING77 is, or the project's small set if it cannot be had.

    Args:
        download: Allow a download, unless the environment forbids it.

    Raises:
        DataError: A file has another content than the pinned one.
    """
    folder = find_data_dir()
    if folder is not None and (folder / "banking77").is_dir():
        return _banking77(folder / "banking77", "folder")
    cache = _cache_dir() / "banking77"
    if all((cache / name).is_file() for name in BANKING77_SHA256):
        return _banking77(cache, "cache")
    if not download or os.environ.get(DOWNLOAD_VARIABLE, "").lower() in ("false", "0"):
        return small_set("BANKING77 is not on this machine and downloads are off")
    problem = _download(cache)
    if problem is not None:
        return small_set(f"BANKING77 is not on this machine and {problem}")
    return _banking77(cache, "download")


def small_set(why: str = "") -> DataSource:
    """Return the set written for this project; `why` says why nothing else is used."""
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(SMALL_SET.glob("*.csv"))
    }
    return DataSource("small_set", SMALL_SET, "project", "CC0-1.0", digests, why)


def load_banking77(split: Split, source: DataSource | None = None) -> pd.DataFrame:
    """Return one split with the columns ``text`` and ``category``.

    Args:
        split: ``train`` or ``test``.
        source: Where from; default: `find_banking77`. It is kept in ``frame.attrs["source"]`` as
            its statement.

    Raises:
        DataError: A file is missing or malformed, or has another content than the pinned one.
    """
    source = source or find_banking77()
    frame = read_labelled(source.folder / f"{split}.csv")
    frame.attrs["source"] = source.statement
    return frame


def load_clinc_oos(split: Literal["train", "val"] = "train") -> pd.DataFrame:
    """Return queries about anything but banking, labelled ``out_of_scope``.

    They are CLINC150's out-of-scope queries where its file is on this machine, else the project's
    own.

    Raises:
        DataError: The file is malformed or has another content than the pinned one.
    """
    import json

    import pandas as pd

    folder = find_data_dir()
    path = None if folder is None else folder / "clinc150" / "train_val.json"
    if path is None or not path.is_file():
        frame = read_labelled(SMALL_SET / "out_of_scope.csv")
        half = len(frame) // 2
        frame = frame.iloc[:half] if split == "train" else frame.iloc[half:]
        frame = frame.reset_index(drop=True)
        frame.attrs["source"] = small_set("CLINC150 is not on this machine").statement
        return frame
    content = _read_pinned(path, CLINC150_SHA256)
    texts = [text for text, _ in json.loads(content)[f"oos_{split}"]]
    frame = pd.DataFrame({"text": texts, "category": OUT_OF_SCOPE})
    source = DataSource(
        "clinc150", path.parent, "folder", "CC-BY-3.0", {path.name: CLINC150_SHA256}
    )
    frame.attrs["source"] = source.statement
    return frame


def read_labelled(path: str | Path) -> pd.DataFrame:
    """Read a CSV file with the columns ``text`` and ``category``; other columns are left out.

    Raises:
        DataError: The file is missing, is not such a file, or has a row without text or category.
    """
    import pandas as pd

    path = Path(path)
    rows = _read_rows(path)
    header, body = rows[0], rows[1:]
    missing = [name for name in ("text", "category") if name not in header]
    if missing:
        raise DataError(f"has no column {missing[0]}", where=str(path), hint=_TABLE_HINT)
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise DataError(
                f"row {number} has {len(row)} fields, the header {len(header)}",
                where=str(path),
                hint="Put text with commas or line breaks in double quotes.",
            )
        for name in ("text", "category"):
            if not row[header.index(name)].strip():
                raise DataError(
                    f"row {number} has no {name}",
                    where=str(path),
                    hint="Fill it in or remove the row.",
                )
    if not body:
        raise DataError("has no rows", where=str(path), hint="Give labelled examples.")
    columns = [header.index("text"), header.index("category")]
    return pd.DataFrame(
        [[row[column] for column in columns] for row in body], columns=["text", "category"]
    )


def _read_rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), hint=_TABLE_HINT) from error
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"is not a CSV file: {error}", where=str(path), hint=_TABLE_HINT) from error
    if not rows:
        raise DataError("is empty", where=str(path), hint=_TABLE_HINT)
    return rows


def _banking77(folder: Path, how: Literal["folder", "cache", "download"]) -> DataSource:
    for name, expected in BANKING77_SHA256.items():
        _read_pinned(folder / name, expected)
    return DataSource("banking77", folder, how, "CC-BY-4.0", BANKING77_SHA256)


def _read_pinned(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"has SHA-256 {found[:12]}…, expected {expected[:12]}…",
            where=str(path),
            hint="Get the file from its source again; see docs/reference/data.md.",
        )
    return content


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mlflow-agents"


@lru_cache(maxsize=4)
def _download(folder: Path) -> str | None:
    """Download BANKING77 into `folder`; return why not, None if it is there now.

    A content other than the pinned one is not kept. One process tries once.
    """
    contents: dict[str, bytes] = {}
    for name, expected in BANKING77_SHA256.items():
        try:
            with urllib.request.urlopen(  # noqa: S310 - a constant https address
                f"{BANKING77_URL}/{name}", timeout=_DOWNLOAD_TIMEOUT_SECONDS
            ) as response:
                contents[name] = response.read(_LARGEST_DOWNLOAD_BYTES)
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            return f"cannot be downloaded ({reason})"
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            return f"its public source serves another {name} than the pinned one"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            descriptor, staging = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(staging).replace(folder / name)
    except OSError as error:
        return f"cannot be stored in {folder} ({error.strerror})"
    return None
