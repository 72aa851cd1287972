"""Reads what people said: labelled requests, or all of it with who and when (remarks).

Rules:
- A file with the columns kind and value is a table of remarks (`lifecycle.collect_remarks`); its
  right intents are the labels. Any other is one of labels, with text and label: it does not say who
  labelled what when, so that its table of remarks is empty.
- Texts of remarks are masked, and columns that are none of theirs left out. Nothing else is
  repaired: what makes no sense is for the validation to name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.lifecycle.remarks import REMARK_COLUMNS, RemarkKind, name_person

if TYPE_CHECKING:
    import pandas as pd

_HINT = "Give a file with the columns text and label, or one of `mlflow-agents feedback remarks`."


def read_feedback(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels and the remarks of a file.

    Args:
        path: CSV in UTF-8, or parquet.

    Returns:
        Labels with ``text``, ``label``, ``labelled_at`` and ``row``, and remarks with
        `REMARK_COLUMNS`, all of them texts.

    Raises:
        DataError: The file is missing, is neither CSV nor parquet, or lacks a column.
    """
    import pandas as pd

    frame = _read(path)
    if {"kind", "value"} <= set(frame.columns):
        remarks = _remarks(frame, path)
        labels = remarks[remarks["kind"] == RemarkKind.INTENT.value]
        labels = labels.rename(columns={"value": "label", "said_at": "labelled_at"})
        return _labels(labels, path), remarks
    return _labels(frame, path), pd.DataFrame(columns=list(REMARK_COLUMNS), dtype=str)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(
            f"is neither CSV in UTF-8 nor parquet: {error}".splitlines()[0],
            where=str(path),
            hint=_HINT,
        ) from error


def _labels(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return labels; ``row`` is the row in the file."""
    import pandas as pd

    _need(frame, ("text", "label"), path)
    at = frame["labelled_at"] if "labelled_at" in frame.columns else pd.Series("", frame.index)
    times = pd.to_datetime(at, utc=True, errors="coerce", format="ISO8601")
    texts = {name: frame[name].fillna("").astype(str) for name in ("text", "label")}
    found = pd.DataFrame({**texts, "labelled_at": times, "row": frame.index})
    return found.reset_index(drop=True)


def _remarks(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    import pandas as pd

    _need(frame, REMARK_COLUMNS, path)
    found = pd.DataFrame(
        {
            name: frame[name].astype(object).where(frame[name].notna(), "").astype(str)
            for name in REMARK_COLUMNS
        }
    )
    for name in ("text", "value", "comment"):
        found[name] = found[name].map(mask_text)
    return found.assign(by=found["by"].map(name_person))


def _need(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(f"has no column {missing[0]}", where=str(path), hint=_HINT)
