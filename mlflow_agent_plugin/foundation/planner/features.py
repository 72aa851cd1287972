"""Features of a text, and confidence from scores: what training and prediction share.

Rules:
- Features are TF-IDF of words (1-2) and of characters within words (2-4).
- The confidence of an intent is its share in a softmax over all intents and one more, "none of
  these", whose score is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    Floats = NDArray[np.float32]

MAX_CHARS = 10_000
"""Characters of a message that are looked at; what a message is about shows earlier."""


def make_vectorizers(
    vocabularies: tuple[list[str], list[str]] | None,
) -> tuple[TfidfVectorizer, TfidfVectorizer]:
    """Return the vectorisers of words and of characters, ready-made if `vocabularies` are given."""
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


def compute_features(
    vectorizers: tuple[TfidfVectorizer, TfidfVectorizer], texts: Sequence[str]
) -> csr_matrix:
    """Return the features of `texts` from fitted vectorisers, shape (n_texts, n_features)."""
    from scipy.sparse import hstack

    cut = [text[:MAX_CHARS] for text in texts]
    return hstack([vectorizer.transform(cut) for vectorizer in vectorizers], format="csr")


def confidence_from(scores: Any, scale: float, background: float | None) -> Floats:
    """Return the share of each class, shape (n_texts, n_classes).

    Args:
        scores: Of the classifier, shape (n_texts, n_classes).
        scale: Factor on all scores.
        background: Score of "none of these"; None: there is no such class.
    """
    import numpy as np

    scaled = np.asarray(scores, dtype=np.float64) * scale
    none = -np.inf if background is None else background * scale
    top = np.maximum(scaled.max(axis=1, keepdims=True), none)
    raised = np.exp(scaled - top)
    total = raised.sum(axis=1, keepdims=True) + np.exp(none - top)
    return np.asarray(raised / total, dtype=np.float32)
