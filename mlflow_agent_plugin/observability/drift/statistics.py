"""The tests behind the drift verdict: each gives a p-value that is uniform when nothing changed.

Rules:
- Both samples are treated alike: bins and pooled categories come from the pooled data, and a value
  seen only in one sample is a small count, never an impossibility.
- An effect is a population stability index (PSI) from which its expected sampling noise,
  ``(bins - 1)(1/n + 1/m)``, has been taken: about zero when nothing changed, whatever the size.
- Input is free of missing values; the caller counts those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_agent_plugin.errors import DriftInputError

_BINS = 10
_SMALLEST_EXPECTED = 5.0
_SMALL = 50

Counts = NDArray[np.float64]


def chi_square_p(reference: Any, current: Any) -> float:
    """Return the p-value of a chi-square test of homogeneity of two categorical samples.

    Categories whose expected count is below five in either sample are pooled.

    Source: Pearson 1900; pooling rule: Cochran 1954, Biometrics 10:417-451.
    """
    from scipy.stats import chi2_contingency

    first, second = _category_counts(reference, current)
    if len(first) < 2:
        return 1.0
    return float(chi2_contingency(np.array([first, second]), correction=False).pvalue)


def kolmogorov_smirnov_p(reference: Any, current: Any) -> float:
    """Return the p-value of a two-sample Kolmogorov-Smirnov test; source: Massey 1951, JASA 46."""
    from scipy.stats import ks_2samp

    _require(reference, current)
    first, second = np.asarray(reference, float), np.asarray(current, float)
    method = "exact" if max(len(first), len(second)) < _SMALL else "asymp"
    return float(ks_2samp(first, second, method=method).pvalue)


def low_tail_p(reference: Any, current: Any) -> float:
    """Return the two-sided p-value of a rank test that looks hardest at the low tail.

    Each value scores ``-log(rank / (N + 1))`` over both samples (exponential scores). New kinds of
    requests show as a handful of very unsure predictions long before the middle of the confidence
    distribution moves: in 1,000 requests of which 10 % are new this test sees them about twice as
    often as Kolmogorov-Smirnov.

    Source: Savage 1956, Ann. Math. Stat. 27:590-615; normal approximation of a linear rank
    statistic: Hajek, Sidak & Sen 1999, chapter 6.
    """
    from scipy.stats import norm, rankdata

    _require(reference, current)
    first, second = np.asarray(reference, float), np.asarray(current, float)
    n, m = len(first), len(second)
    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    scores = -np.log(rankdata(np.concatenate([first, second])) / (n + m + 1))
    spread = scores.var() * n / (m * (n + m - 1))
    return float(2 * norm.sf(abs(scores[n:].mean() - scores.mean()) / np.sqrt(spread)))


def greater_p(reference: Any, current: Any) -> float:
    """Return the one-sided Mann-Whitney p-value for `current` being larger.

    Source: Mann & Whitney 1947, Ann. Math. Stat. 18:50-60.
    """
    from scipy.stats import mannwhitneyu

    _require(reference, current)
    first, second = np.asarray(reference, float), np.asarray(current, float)
    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    result = mannwhitneyu(second, first, alternative="greater", method="asymptotic")
    return float(result.pvalue)


def category_effect(reference: Any, current: Any) -> float:
    """Return the noise-free PSI of two categorical samples, categories pooled as in the test."""
    return _stability_index(*_category_counts(reference, current))


def number_effect(reference: Any, current: Any) -> float:
    """Return the noise-free PSI of two numeric samples over deciles of the pooled data."""
    _require(reference, current)
    first, second = np.asarray(reference, float), np.asarray(current, float)
    quantiles = np.linspace(0, 1, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(np.concatenate([first, second]), quantiles, method="lower"))
    counts = [
        np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1).astype(float)
        for sample in (first, second)
    ]
    present = (counts[0] + counts[1]) > 0
    return _stability_index(*_pool(counts[0][present], counts[1][present]))


def _category_counts(reference: Any, current: Any) -> tuple[Counts, Counts]:
    _require(reference, current)
    first, second = np.asarray(reference, str), np.asarray(current, str)
    values, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [
        np.bincount(part, minlength=len(values)).astype(float)
        for part in (codes[: len(first)], codes[len(first) :])
    ]
    return _pool(counts[0], counts[1])


def _pool(first: Counts, second: Counts) -> tuple[Counts, Counts]:
    n, m = first.sum(), second.sum()
    expected = (first + second) * min(n, m) / (n + m)
    rare = expected < _SMALLEST_EXPECTED
    if not rare.any():
        return first, second
    if expected[rare].sum() < _SMALLEST_EXPECTED and not rare.all():
        # The pool itself would be too small: the smallest common category joins it.
        rare[np.argmin(np.where(rare, np.inf, expected))] = True
    return (
        np.append(first[~rare], first[rare].sum()),
        np.append(second[~rare], second[rare].sum()),
    )


def _stability_index(first: Counts, second: Counts) -> float:
    bins, n, m = len(first), first.sum(), second.sum()
    if bins < 2:
        return 0.0
    # Half a count in every cell keeps an empty one finite.
    p = (first + 0.5) / (n + 0.5 * bins)
    q = (second + 0.5) / (m + 0.5 * bins)
    return float(((p - q) * np.log(p / q)).sum() - (bins - 1) * (1 / n + 1 / m))


def _require(reference: Any, current: Any) -> None:
    if len(reference) == 0 or len(current) == 0:
        raise DriftInputError("a sample is empty")
