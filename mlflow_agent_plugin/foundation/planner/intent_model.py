"""The intent model: what a message is about, and how sure that is.

Rules:
- Features are TF-IDF of words (1-2) and of characters within words (2-4); the classifier is
  multinomial logistic regression.
- The confidence of an intent is its share in a softmax over all intents and one more, "none of
  these", whose score is constant. The scale of the scores and that constant are fitted on training
  examples held back from the first fit; no test data enters. So confidence is a probability that
  can be compared between messages, and messages about something else get little of it.
- Same examples, same seed, same library versions: the same files, byte for byte.
- A model is three files that are only ever read as data (JSON, and numpy arrays without pickle):
  ``card.json``, ``vocabulary.json``, ``weights.npz``. Why not skops: docs/adr/planner-files.md.
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    Floats = NDArray[np.float32]

CARD_FILE = "card.json"
VOCABULARY_FILE = "vocabulary.json"
WEIGHTS_FILE = "weights.npz"
PLANNER_FILES = (CARD_FILE, VOCABULARY_FILE, WEIGHTS_FILE)
"""The files of a trained planner."""

MAX_CHARS = 10_000
"""Characters of a message that are looked at; what a message is about shows earlier."""

_MAX_WEIGHTS_BYTES = 512 * 1024**2
_INVERSE_REGULARISATION = 20.0
_HELD_BACK = 0.2
_FEWEST_HELD_BACK = 20
_BACKGROUND_QUANTILE = 0.02


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
        return _shares(self._scores(texts), self.card.scale, self.card.background)

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

        features = _features(self._vectorizers, texts)
        scores = features @ self.coefficients.T + self.intercepts
        return np.asarray(scores, dtype=np.float32)

    @cached_property
    def _vectorizers(self) -> tuple[TfidfVectorizer, TfidfVectorizer]:
        vectorizers = _make_vectorizers(self.vocabularies)
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


def train_planner(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
) -> TrainedPlanner:
    """Train an intent model.

    Args:
        texts: What users say.
        labels: The intent of each; examples of no intent are labelled ``out_of_scope``.
        seed: Chooses which examples are held back to fit the confidence.
        data: Where the examples come from, for the card.

    Raises:
        PlannerError: There are fewer than two intents, an empty text or label, or unequal lengths.
    """
    from threadpoolctl import threadpool_limits

    _check_examples(texts, labels)
    with threadpool_limits(1):  # more threads only spin here: twice the CPU for the same time
        return _train(texts, labels, seed=seed, data=dict(data or {}))


def _train(
    texts: Sequence[str], labels: Sequence[str], *, seed: int, data: dict[str, Any]
) -> TrainedPlanner:
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegression

    classes = tuple(sorted(set(labels)))
    numbers = {label: index for index, label in enumerate(classes)}
    targets = np.array([numbers[label] for label in labels])
    vectorizers = _make_vectorizers(None)
    # The vectorisers see all training texts but no label; so one feature space serves both fits.
    for vectorizer in vectorizers:
        vectorizer.fit([text[:MAX_CHARS] for text in texts])
    features = _features(vectorizers, texts)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=500, warm_start=True)

    kept, held = _hold_back(targets, seed)
    scale, background, held_accuracy = 1.0, None, None
    if len(held) >= _FEWEST_HELD_BACK:
        model.fit(features[kept], targets[kept])
        scores = features[held] @ _weights(model)[0].T + _weights(model)[1]
        scale = _fit_scale(scores, targets[held])
        background = float(np.quantile(scores.max(axis=1), _BACKGROUND_QUANTILE))
        held_accuracy = (int((scores.argmax(axis=1) == targets[held]).sum()), len(held))
    model.fit(features, targets)  # starts from the first fit: half the iterations

    coefficients, intercepts = _weights(model)
    vocabularies = tuple(list(v.get_feature_names_out()) for v in vectorizers)
    card = PlannerCard(
        classes=classes,
        n_train=len(texts),
        n_features=features.shape[1],
        seed=seed,
        scale=scale,
        background=background,
        sklearn_version=sklearn.__version__,
        data=data,
    )
    if held_accuracy is not None:
        card = card.with_accuracy("held_back", *held_accuracy)
    return TrainedPlanner(
        card,
        (vocabularies[0], vocabularies[1]),
        idf=np.concatenate([v.idf_ for v in vectorizers]).astype(np.float32),
        coefficients=coefficients.astype(np.float32),
        intercepts=intercepts.astype(np.float32),
    )


def _check_examples(texts: Sequence[str], labels: Sequence[str]) -> None:
    if len(texts) != len(labels):
        raise PlannerError(f"there are {len(texts)} texts and {len(labels)} labels")
    for index, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise PlannerError("the text is empty", where=f"example {index + 1}")
        if not isinstance(label, str) or not label.strip():
            raise PlannerError("the label is empty", where=f"example {index + 1}")
    if len(set(labels)) < 2:
        raise PlannerError(
            f"a planner needs at least two intents, the examples have {len(set(labels))}",
            hint="Give more labelled examples.",
        )


def _make_vectorizers(
    vocabularies: tuple[list[str], list[str]] | None,
) -> tuple[TfidfVectorizer, TfidfVectorizer]:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    words, characters = (None, None) if vocabularies is None else vocabularies
    return (
        TfidfVectorizer(
            ngram_range=(1, 2),
            token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - not a password; one-letter words count
            sublinear_tf=True,
            dtype=np.float32,
            vocabulary=words,
        ),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=(2, 4),
            sublinear_tf=True,
            dtype=np.float32,
            vocabulary=characters,
        ),
    )


def _features(
    vectorizers: tuple[TfidfVectorizer, TfidfVectorizer], texts: Sequence[str]
) -> csr_matrix:
    from scipy.sparse import hstack

    cut = [text[:MAX_CHARS] for text in texts]
    return hstack([vectorizer.transform(cut) for vectorizer in vectorizers], format="csr")


def _weights(model: Any) -> tuple[Any, Any]:
    import numpy as np

    if model.coef_.shape[0] > 1:
        return model.coef_, model.intercept_
    # two classes share one row; a softmax over halves of it is the same sigmoid
    return (
        np.vstack([-model.coef_[0], model.coef_[0]]) / 2,
        np.array([-model.intercept_[0], model.intercept_[0]]) / 2,
    )


def _hold_back(targets: Any, seed: int) -> tuple[Any, Any]:
    """Split the examples by class; every class keeps at least one for the fit."""
    import numpy as np

    generator = np.random.default_rng(seed)
    held: list[int] = []
    for target in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == target))
        held.extend(members[: min(round(len(members) * _HELD_BACK), len(members) - 1)])
    mask = np.zeros(len(targets), dtype=bool)
    mask[held] = True
    if len(np.unique(targets[~mask])) < 2:
        mask[:] = False
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _fit_scale(scores: Any, targets: Any) -> float:
    """Return the factor on the scores that gives held-back examples the highest likelihood.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (temperature scaling).
    """
    import numpy as np

    rows = np.arange(len(targets))

    def loss(factor: float) -> float:
        shares = _shares(scores, factor, None)[rows, targets]
        return float(-np.log(shares + 1e-12).mean())

    return min((round(factor, 2) for factor in np.arange(0.5, 4.01, 0.05)), key=loss)


def _shares(scores: Any, scale: float, background: float | None) -> Floats:
    import numpy as np

    scaled = np.asarray(scores, dtype=np.float64) * scale
    none = -np.inf if background is None else background * scale
    top = np.maximum(scaled.max(axis=1, keepdims=True), none)
    raised = np.exp(scaled - top)
    total = raised.sum(axis=1, keepdims=True) + np.exp(none - top)
    return np.asarray(raised / total, dtype=np.float32)


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
