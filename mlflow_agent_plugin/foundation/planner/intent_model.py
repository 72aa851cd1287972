"""The intent model: what a message is about, how sure that is, and its files.

Rules:
- Confidence is a probability that can be compared between messages; messages about something else
  get little of it (see `features.confidence_from`).
- A model is three files that are only ever read as data (JSON, and numpy arrays without pickle):
  ``card.json``, ``vocabulary.json``, ``weights.npz``. Why not skops: docs/adr/planner-files.md.
- The card names the digests of the other two: files of two models never mix.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation.planner.card import PlannerCard
from mlflow_agent_plugin.foundation.planner.features import (
    compute_features,
    confidence_from,
    make_vectorizers,
)

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

    from mlflow_agent_plugin.foundation.planner.features import Floats

CARD_FILE = "card.json"
VOCABULARY_FILE = "vocabulary.json"
WEIGHTS_FILE = "weights.npz"
PLANNER_FILES = (CARD_FILE, VOCABULARY_FILE, WEIGHTS_FILE)
"""The files of a trained planner."""

_MAX_WEIGHTS_BYTES = 512 * 1024**2


@dataclass(frozen=True, eq=False)
class TrainedPlanner:
    """A trained intent model.

    Attributes:
        card: What it was trained on and how well it does.
        vocabularies: Features of the two vectorisers, in column order.
        idf: Inverse document frequency of every feature, shape (n_features,).
        coefficients: Shape (n_classes, n_features).
        intercepts: Shape (n_classes,).
    """

    card: PlannerCard
    vocabularies: tuple[list[str], list[str]] = field(repr=False)
    idf: Floats = field(repr=False)
    coefficients: Floats = field(repr=False)
    intercepts: Floats = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The intents, sorted."""
        return self.card.classes

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """Return the confidence of every intent, shape (n_texts, n_classes).

        A row sums to less than 1: the rest is "none of these".
        """
        return confidence_from(self._scores(texts), self.card.scale, self.card.background)

    def predict(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Return the best intent of each text with its confidence in [0, 1]."""
        shares = self.predict_proba(texts)
        best = shares.argmax(axis=1)
        return [
            (self.classes[index], float(row[index]))
            for index, row in zip(best, shares, strict=True)
        ]

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Return every intent with its confidence, best first."""
        shares = self.predict_proba([text])[0]
        order = shares.argsort(kind="stable")[::-1]
        return [(self.classes[index], float(shares[index])) for index in order]

    def _scores(self, texts: Sequence[str]) -> Floats:
        import numpy as np

        features = compute_features(self._vectorizers, texts)
        scores = features @ self.coefficients.T + self.intercepts
        return np.asarray(scores, dtype=np.float32)

    @cached_property
    def _vectorizers(self) -> tuple[TfidfVectorizer, TfidfVectorizer]:
        vectorizers = make_vectorizers(self.vocabularies)
        start = 0
        for vectorizer, vocabulary in zip(vectorizers, self.vocabularies, strict=True):
            vectorizer.idf_ = self.idf[start : start + len(vocabulary)]
            start += len(vocabulary)
        return vectorizers

    # --- Files ----------------------------------------------------------------------------------

    def to_files(self) -> dict[str, bytes]:
        """Return the content of the model's files by name."""
        import numpy as np

        vocabulary = json.dumps(
            dict(zip(("words", "characters"), self.vocabularies, strict=True)),
            ensure_ascii=False,
        ).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            idf=self.idf,
            coefficients=self.coefficients,
            intercepts=self.intercepts,
        )
        weights = buffer.getvalue()
        card = self.card.model_copy(
            update={
                "files": {
                    VOCABULARY_FILE: hashlib.sha256(vocabulary).hexdigest(),
                    WEIGHTS_FILE: hashlib.sha256(weights).hexdigest(),
                }
            }
        )
        return {
            CARD_FILE: card.to_json(),
            VOCABULARY_FILE: vocabulary,
            WEIGHTS_FILE: weights,
        }

    def save(self, directory: str | Path) -> None:
        """Write the model to `directory`, replacing a model that is there.

        The new files are complete before the old ones go.

        Raises:
            PlannerError: The folder holds other files, or cannot be written.
        """
        target = Path(directory)
        try:
            strangers = sorted(
                path.name for path in target.glob("*") if path.name not in PLANNER_FILES
            )
            if strangers:
                raise PlannerError(
                    f"the folder holds {strangers[0]}, which is no file of a planner",
                    where=str(target),
                    hint="Give a folder of its own.",
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                for name, content in self.to_files().items():
                    (staging / name).write_bytes(content)
                staging.chmod(0o755)
                old = staging.with_name(staging.name + ".old")
                if target.exists():
                    target.rename(old)
                staging.rename(target)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise PlannerError(
                f"the planner cannot be written: {error.strerror}", where=str(target)
            ) from error

    @classmethod
    def load(cls, directory: str | Path) -> TrainedPlanner:
        """Read a model from `directory`.

        A bundle's planner is read through the bundle instead, which checks its digest
        (`build_chat_model` does).

        Raises:
            PlannerError: A file is missing, unreadable or malformed.
        """
        folder = Path(directory)
        files = {}
        for name in PLANNER_FILES:
            try:
                files[name] = (folder / name).read_bytes()
            except OSError as error:
                raise PlannerError(
                    f"the planner has no readable {name}: {error.strerror}",
                    where=str(folder),
                    hint="Train it: python -m pipelines.train --agent <folder of the agent>.",
                ) from error
        return cls.from_files(files, where=str(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "planner") -> TrainedPlanner:
        """Read a model from the content of its files, as data only.

        Args:
            files: Content by name, for every name in `PLANNER_FILES`.
            where: Folder to name in errors.

        Raises:
            PlannerError: A file is missing or malformed, or the files do not belong together.
        """
        try:
            return cls._parse(files, where)
        except PlannerError:
            raise
        except Exception as error:
            raise PlannerError(
                f"the planner's files are malformed ({type(error).__name__}: {error})",
                where=where,
                hint="Train it again: python -m pipelines.train --agent <folder of the agent>.",
            ) from error

    @classmethod
    def _parse(cls, files: Mapping[str, bytes], where: str) -> TrainedPlanner:
        missing = [name for name in PLANNER_FILES if name not in files]
        if missing:
            raise PlannerError(
                f"the planner has no {missing[0]}",
                where=where,
                hint="Train it: python -m pipelines.train --agent <folder of the agent>.",
            )
        card = PlannerCard.from_json(files[CARD_FILE], where=f"{where}/{CARD_FILE}")
        for name, expected in card.files.items():
            if hashlib.sha256(files.get(name, b"")).hexdigest() != expected:
                raise PlannerError(
                    f"{name} does not belong to this {CARD_FILE}",
                    where=where,
                    hint="Train it again.",
                )
        vocabularies = _read_vocabularies(files[VOCABULARY_FILE])
        arrays = _read_arrays(files[WEIGHTS_FILE])
        n_features = sum(len(vocabulary) for vocabulary in vocabularies)
        shapes = {
            "idf": (n_features,),
            "coefficients": (len(card.classes), n_features),
            "intercepts": (len(card.classes),),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
        return cls(card, vocabularies, **arrays)


def _read_vocabularies(content: bytes) -> tuple[list[str], list[str]]:
    value = json.loads(content)
    if not isinstance(value, dict) or set(value) != {"words", "characters"}:
        raise ValueError(f"{VOCABULARY_FILE} needs words and characters")
    for name, entries in value.items():
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{VOCABULARY_FILE}: {name} is not a list of texts")
        if not entries or len(set(entries)) != len(entries):
            raise ValueError(f"{VOCABULARY_FILE}: {name} is empty or names a feature twice")
    return value["words"], value["characters"]


def _read_arrays(content: bytes) -> dict[str, Any]:
    import numpy as np

    expected = {"idf", "coefficients", "intercepts"}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_WEIGHTS_BYTES:
            raise ValueError(f"{WEIGHTS_FILE} is larger than {_MAX_WEIGHTS_BYTES} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        if set(archive.files) != expected:
            raise ValueError(f"{WEIGHTS_FILE} needs {', '.join(sorted(expected))}")
        arrays = {name: archive[name] for name in expected}
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{WEIGHTS_FILE}: {name} is not finite float32")
    return arrays
