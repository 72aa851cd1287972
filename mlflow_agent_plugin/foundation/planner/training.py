"""Trains the intent model.

Rules:
- The classifier is multinomial logistic regression on the features of `features.py`. Kind of
  classifier, features and strength were chosen by measurement on held-back training data
  (docs/concepts/local-planner.md has the table).
- What is asked about since last week has few examples, and is to be learned from those: the fewer
  an intent has, the more each weighs, and its score is raised by as much as scarcity alone lowers
  it. Otherwise requests of a new intent go to the old one beside it.
- The scale of the scores and the score of "none of these" are fitted on training examples held back
  from the first fit; no test data enters.
- Same examples, same seed, same library versions: the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation.planner.card import PlannerCard
from mlflow_agent_plugin.foundation.planner.features import (
    MAX_CHARS,
    compute_features,
    confidence_from,
    make_vectorizers,
)
from mlflow_agent_plugin.foundation.planner.intent_model import TrainedPlanner

_INVERSE_REGULARISATION = 20.0
_SCARCITY_WEIGHT = 1.5
"""Examples weigh by their intent's scarcity to this power; 1: every intent weighs the same."""
_SCARCITY_SCORE = 1.0
"""Times the logarithm of its scarcity an intent's score is raised."""
_MOST_SCARCE = 5.0
"""Scarcity that is made up for; beyond it one example would draw all that is not understood."""
_HELD_BACK = 0.2
_FEWEST_HELD_BACK = 20
_BACKGROUND_QUANTILE = 0.02


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
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    _check_examples(texts, labels)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=500, warm_start=True)
    # More threads only spin here, for twice the CPU. The limit holds for libraries that are loaded,
    # so scikit-learn is imported before it.
    with threadpool_limits(1):
        return _train(model, texts, labels, seed=seed, data=dict(data or {}))


def _train(
    model: Any, texts: Sequence[str], labels: Sequence[str], *, seed: int, data: dict[str, Any]
) -> TrainedPlanner:
    import numpy as np
    import sklearn

    classes = tuple(sorted(set(labels)))
    numbers = {label: index for index, label in enumerate(classes)}
    targets = np.array([numbers[label] for label in labels])
    vectorizers = make_vectorizers(None)
    # The vectorisers see all training texts but no label; so one feature space serves both fits.
    for vectorizer in vectorizers:
        vectorizer.fit([text[:MAX_CHARS] for text in texts])
    rows = compute_features(vectorizers, texts)

    kept, held = _hold_back(targets, seed)
    scale, background, held_accuracy = 1.0, None, None
    if len(held) >= _FEWEST_HELD_BACK:
        coefficients, intercepts = _fit(model, rows[kept], targets[kept])
        scores = rows[held] @ coefficients.T + intercepts
        scale = _fit_scale(scores, targets[held])
        background = float(np.quantile(scores.max(axis=1), _BACKGROUND_QUANTILE))
        held_accuracy = (int((scores.argmax(axis=1) == targets[held]).sum()), len(held))
    # starts from the first fit: half the iterations
    coefficients, intercepts = _fit(model, rows, targets)

    vocabularies = tuple(list(v.get_feature_names_out()) for v in vectorizers)
    card = PlannerCard(
        classes=classes,
        n_train=len(texts),
        n_features=rows.shape[1],
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


def _fit(model: Any, rows: Any, targets: Any) -> tuple[Any, Any]:
    """Fit the classifier and return coefficients and intercepts, scarcity made up for.

    Source of the raised scores: Menon et al. 2021, Long-Tail Learning via Logit Adjustment.
    """
    import numpy as np

    counts = np.bincount(targets)
    scarcity = np.minimum(counts.mean() / counts, _MOST_SCARCE)
    model.fit(rows, targets, sample_weight=scarcity[targets] ** _SCARCITY_WEIGHT)
    coefficients, intercepts = _weights(model)
    return coefficients, intercepts + _SCARCITY_SCORE * np.log(scarcity)


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
        found = confidence_from(scores, factor, None)[rows, targets]
        return float(-np.log(found + 1e-12).mean())

    return min((round(factor, 2) for factor in np.arange(0.5, 4.01, 0.05)), key=loss)
