"""Means and quantiles: paired differences, repeated runs, percentiles."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from mlflow_agent_plugin.entities.statistics.numerics import NORMAL, critical_value


@dataclass(frozen=True)
class MeanDifference:
    """Mean of paired differences with a bootstrap interval.

    Attributes:
        difference: Mean of candidate minus incumbent.
        low: Lower limit of its interval; equal to `difference` when nothing varies.
        high: Upper limit of its interval.
        n: Number of pairs.
        confidence: Two-sided level of the interval.
    """

    difference: float
    low: float
    high: float
    n: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def bootstrap_mean_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> MeanDifference:
    """Return the mean of ``a - b`` over paired cases with a bias-corrected bootstrap interval.

    Args:
        a: The candidate's values, one per case.
        b: The incumbent's values, in the same order.
        seed: Same seed, same interval.
        resamples: Number of bootstrap samples, at least 100.
        confidence: Two-sided confidence level in (0, 1).

    Raises:
        ValueError: The lengths differ, there are no pairs, or a value is not finite.

    Source: Efron 1987, JASA 82:171-185 (BCa interval).
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    if not a:
        raise ValueError("there are no pairs")
    if resamples < 100:
        raise ValueError("resamples must be at least 100")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not all(map(math.isfinite, differences)):
        raise ValueError("values must be finite")
    z = critical_value(confidence)
    n = len(differences)
    mean = fmean(differences)
    if min(differences) == max(differences):
        return MeanDifference(mean, mean, mean, n, confidence)
    draw = random.Random(seed)  # noqa: S311 - resampling, not secrets
    means = sorted(fmean(draw.choices(differences, k=n)) for _ in range(resamples))
    below = sum(m < mean for m in means) + sum(m == mean for m in means) / 2.0
    # Half a resample from either end keeps the correction finite.
    share = min(max(below / resamples, 0.5 / resamples), 1.0 - 0.5 / resamples)
    bias = NORMAL.inv_cdf(share)
    scale = max(abs(d - mean) for d in differences)
    centred = [(d - mean) / scale for d in differences]
    acceleration = sum(c**3 for c in centred) / (6.0 * sum(c * c for c in centred) ** 1.5)
    limits = []
    for quantile in (-z, z):
        shifted = bias + quantile
        adjusted = bias + shifted / max(1e-9, 1.0 - acceleration * shifted)
        rank = NORMAL.cdf(adjusted) * resamples
        limits.append(means[min(resamples - 1, max(0, round(rank - 0.5)))])
    return MeanDifference(mean, limits[0], limits[1], n, confidence)


@dataclass(frozen=True)
class VarianceSplit:
    """How much of a measure varies between cases and how much between runs of one case.

    Attributes:
        mean: Mean over all cases and runs.
        between_cases: Variance of the cases' true means.
        between_runs: Variance of repeated runs of one case.
        standard_error: Of the mean, by case (runs of one case are not independent).
        cases: Number of cases.
        runs: Runs of each case.
    """

    mean: float
    between_cases: float
    between_runs: float
    standard_error: float
    cases: int
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def split_variance(values: Sequence[Sequence[float]]) -> VarianceSplit:
    """Split the variance of repeated runs into cases and runs.

    Args:
        values: One sequence per case, each with the same number of runs, at least one.

    Raises:
        ValueError: There are no cases, or the cases have different numbers of runs.

    Source: Searle, Casella & McCulloch 1992, Variance Components, ch. 3 (balanced one-way ANOVA);
    clustered standard error: Miller 2024, arXiv:2411.00640.
    """
    sizes = {len(runs) for runs in values}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError("every case needs the same number of runs, at least one")
    runs = sizes.pop()
    cases = len(values)
    means = [fmean(case) for case in values]
    mean = fmean(means)
    of_means = sum((m - mean) ** 2 for m in means) / (cases - 1) if cases > 1 else 0.0
    within = 0.0
    if runs > 1:
        squares = sum((v - m) ** 2 for case, m in zip(values, means, strict=True) for v in case)
        within = squares / (cases * (runs - 1))
    return VarianceSplit(
        mean=mean,
        between_cases=max(0.0, of_means - within / runs),
        between_runs=within,
        standard_error=math.sqrt(of_means / cases),
        cases=cases,
        runs=runs,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed; 0 if empty.

    Args:
        values: In any order.
        share: In [0, 1].

    Raises:
        ValueError: `share` is out of range.

    Source: the nearest-rank definition; Hyndman & Fan 1996, Am. Stat. 50:361-365 (type 1).

    >>> percentile([3.0, 1.0, 2.0, 4.0], 0.5)
    2.0
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
