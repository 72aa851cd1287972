"""What traffic is about, from its texts alone: words the reference never had, and a classifier.

Rules:
- Both columns look alike on both sides when nothing changed: a reference text is compared with the
  other reference texts only, and the classifier scores only what it was not trained on.
- No text, no value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_CLASSIFIED = 10_000
"""Most texts per side the text classifier sees."""

_WORD = re.compile(r"\w+")
_FEWEST_TEXTS = 20


def unseen_words(
    reference: Sequence[str | None], current: Sequence[str | None]
) -> tuple[list[float | None], list[float | None]]:
    """Return each text's share of words that no (other) reference text has; None without words.

    A reference text is compared with the others only, otherwise all of its words would be known and
    every new text would look strange.
    """
    first = [split_words(text) for text in reference]
    second = [split_words(text) for text in current]
    seen = Counter(word for words in first if words for word in words)
    return (
        [_share(words, seen, own=1) for words in first],
        [_share(words, seen, own=0) for words in second],
    )


def novelty_columns(reference: list[str | None], current: list[str | None]) -> tuple[Any, Any]:
    """Return `text_novelty` of the texts that have words, NaN for others and for those trained on.

    With fewer than twenty texts on a side nothing can be learnt, and all is NaN.
    """
    sides = [
        [index for index, text in enumerate(texts) if split_words(text)]
        for texts in (reference, current)
    ]
    columns = [np.full(len(texts), np.nan) for texts in (reference, current)]
    if min(len(side) for side in sides) < _FEWEST_TEXTS:
        return columns[0], columns[1]
    found = text_novelty(
        [reference[index] or "" for index in sides[0]], [current[index] or "" for index in sides[1]]
    )
    for column, side, scores in zip(columns, sides, found, strict=True):
        column[side] = scores
    return columns[0], columns[1]


def text_novelty(
    reference: Sequence[str], current: Sequence[str], *, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Return how "current" a classifier finds each text that it was not trained on, NaN for others.

    One half of both samples trains TF-IDF and a logistic regression to tell them apart, the other
    half is scored. Nothing links the scored half to the training half, so when nothing changed the
    scores of both sides follow one distribution.

    Source: Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests", ICLR.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(seed)
    scores = [np.full(len(sample), np.nan) for sample in (reference, current)]
    halves = []
    for sample in (reference, current):
        order = generator.permutation(len(sample))[: 2 * MAX_CLASSIFIED]
        halves.append((order[: len(order) // 2], order[len(order) // 2 :]))
    samples = (np.asarray(reference, dtype=object), np.asarray(current, dtype=object))
    training = [samples[side][halves[side][0]] for side in (0, 1)]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD.pattern)
    features = vectors.fit_transform(np.concatenate(training))
    labels = np.repeat([0, 1], [len(training[0]), len(training[1])])
    classifier = LogisticRegression(class_weight="balanced").fit(features, labels)
    for side in (0, 1):
        scored = halves[side][1]
        scores[side][scored] = classifier.decision_function(
            vectors.transform(samples[side][scored])
        )
    return scores[0].tolist(), scores[1].tolist()


def split_words(text: str | None) -> list[str] | None:
    """Return the words of `text` in lower case, None without text."""
    return None if text is None else _WORD.findall(text.lower())


def _share(words: list[str] | None, seen: Counter[str], *, own: int) -> float | None:
    if not words:
        return None
    counts = Counter(words) if own else None
    unseen = sum(seen[word] - (counts[word] if counts else 0) <= 0 for word in words)
    return unseen / len(words)
