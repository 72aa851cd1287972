"""The statistics of evaluation, in plain Python: intervals of rates, paired comparisons, means.

Rules:
- Every function is pure; what needs random numbers takes a seed and gives the same answer for it.
- No data is not good data: with ``n = 0`` an interval is the whole range and no test can reject.
- ``confidence`` is two-sided everywhere. A non-inferiority claim holds when the lower limit of the
  two-sided interval lies above ``-margin``, which is a one-sided test at ``(1 - confidence) / 2``.
- In paired functions ``a`` is the candidate and ``b`` the incumbent, both on the same cases;
  ``only_a`` counts the cases only the candidate got right.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import Any

_NORMAL = NormalDist()
_BISECTIONS = 200


def _critical_value(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return _NORMAL.inv_cdf(0.5 + confidence / 2.0)


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a rate.

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of trials; 0 gives (0, 1), because nothing is known.
        confidence: Two-sided confidence level in (0, 1).

    Raises:
        ValueError: `successes` is not between 0 and `n`, or `confidence` not in (0, 1).

    Source: Wilson 1927, JASA 22:209-212; Newcombe 1998, Stat. Med. 17:857-872 (method 3).

    >>> low, high = wilson_interval(81, 263)
    >>> f"{low:.4f} {high:.4f}"
    '0.2553 0.3662'
    """
    z = _critical_value(confidence)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, not {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    square = z * z / n
    centre = (rate + square / 2.0) / (1.0 + square)
    half = z * math.sqrt(rate * (1.0 - rate) / n + square / (4.0 * n)) / (1.0 + square)
    # Exact at the ends, where rounding would leave 1e-17 instead of 0.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Under the null hypothesis each discordant pair falls to either side with probability one half;
    the p-value is twice the smaller binomial tail, at most 1.

    Args:
        only_a: Pairs only `a` got right.
        only_b: Pairs only `b` got right.

    Raises:
        ValueError: A count is negative.

    Source: McNemar 1947, Psychometrika 12:153-157; exact form: Fagerland, Lydersen & Laake 2013,
    BMC Med. Res. Methodol. 13:91.

    >>> round(mcnemar_exact(1, 9), 5)
    0.02148
    """
    if only_a < 0 or only_b < 0:
        raise ValueError("counts must not be negative")
    n = only_a + only_b
    term = tail = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (n - k + 1) // k
        tail += term
    return min(1.0, _ratio(2 * tail, n))


def _ratio(numerator: int, power_of_two: int) -> float:
    """Return numerator / 2**power_of_two without overflowing on thousands of pairs."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(float(numerator >> shift), shift - power_of_two)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two rates measured on the same cases, candidate minus incumbent.

    Attributes:
        difference: Observed difference, in [-1, 1].
        low: Lower limit of its interval.
        high: Upper limit of its interval.
        n: Number of pairs.
        only_a: Pairs only the candidate got right.
        only_b: Pairs only the incumbent got right.
        p_value: Two-sided exact McNemar p-value.
        confidence: Two-sided level of the interval.
    """

    difference: float
    low: float
    high: float
    n: int
    only_a: int
    only_b: int
    p_value: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def paired_difference(
    only_a: int, only_b: int, n: int, *, confidence: float = 0.95
) -> PairedDifference:
    """Return the difference of two paired rates with Tango's score interval.

    Args:
        only_a: Pairs only the candidate got right.
        only_b: Pairs only the incumbent got right.
        n: All pairs, concordant ones included; 0 gives the interval (-1, 1).
        confidence: Two-sided confidence level in (0, 1).

    Raises:
        ValueError: Counts are negative or do not fit into `n`.

    Source: Tango 1998, Stat. Med. 17:891-908.
    """
    z = _critical_value(confidence)
    if min(only_a, only_b) < 0 or only_a + only_b > n:
        raise ValueError(f"discordant pairs {only_a} + {only_b} do not fit into {n} pairs")
    p_value = mcnemar_exact(only_a, only_b)
    if n == 0:
        return PairedDifference(0.0, -1.0, 1.0, 0, 0, 0, p_value, confidence)
    observed = (only_a - only_b) / n
    # The score statistic falls as the hypothesised difference grows: +z at the lower limit.
    low = _bisect(lambda d: _tango_score(only_a, only_b, n, d) - z, -1.0, observed)
    high = _bisect(lambda d: _tango_score(only_a, only_b, n, d) + z, observed, 1.0)
    return PairedDifference(observed, low, high, n, only_a, only_b, p_value, confidence)


def _tango_score(only_a: int, only_b: int, n: int, difference: float) -> float:
    a = 2.0 * n
    b = (2.0 * n - only_a + only_b) * difference - only_a - only_b
    c = -only_b * difference * (1.0 - difference)
    q = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    numerator = only_a - only_b - n * difference
    if variance <= 0.0:
        return math.copysign(math.inf, numerator) if numerator else 0.0
    return numerator / math.sqrt(variance)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Find the root of a function that falls from `low` to `high`, at an end if there is none."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if falling(middle) > 0.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


@dataclass(frozen=True)
class NonInferiority:
    """Verdict on "the candidate is at most `margin` worse", with the numbers behind it.

    Attributes:
        holds: The lower limit of the difference lies above ``-margin``.
        margin: Largest loss that is still acceptable, a rate in (0, 1).
        difference: The paired difference it was judged on.
        p_value: One-sided score p-value of "worse by at least the margin".
    """

    holds: bool
    margin: float
    difference: PairedDifference
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "holds": self.holds,
            "margin": self.margin,
            "p_value": self.p_value,
            "difference": self.difference.to_dict(),
        }


def non_inferiority(
    only_a: int, only_b: int, n: int, *, margin: float, confidence: float = 0.95
) -> NonInferiority:
    """Judge whether the candidate's rate is at most `margin` below the incumbent's.

    Args:
        only_a: Pairs only the candidate got right.
        only_b: Pairs only the incumbent got right.
        n: All pairs; with 0 nothing holds.
        margin: Largest acceptable loss, in (0, 1).
        confidence: Two-sided level; the test is one-sided at ``(1 - confidence) / 2``.

    Raises:
        ValueError: `margin` is not in (0, 1) or the counts make no sense.

    Source: Tango 1998, Stat. Med. 17:891-908 (score test with restricted estimates).
    """
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie between 0 and 1, not {margin}")
    difference = paired_difference(only_a, only_b, n, confidence=confidence)
    if n == 0:
        return NonInferiority(holds=False, margin=margin, difference=difference, p_value=1.0)
    score = _tango_score(only_a, only_b, n, -margin)
    p_value = 1.0 - _NORMAL.cdf(score) if math.isfinite(score) else float(score < 0.0)
    return NonInferiority(
        holds=difference.low > -margin, margin=margin, difference=difference, p_value=p_value
    )


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
    z = _critical_value(confidence)
    n = len(differences)
    mean = fmean(differences)
    if min(differences) == max(differences):
        return MeanDifference(mean, mean, mean, n, confidence)
    draw = random.Random(seed)  # noqa: S311 - resampling, not secrets
    means = sorted(fmean(draw.choices(differences, k=n)) for _ in range(resamples))
    below = sum(m < mean for m in means) + sum(m == mean for m in means) / 2.0
    # Half a resample from either end keeps the correction finite.
    share = min(max(below / resamples, 0.5 / resamples), 1.0 - 0.5 / resamples)
    bias = _NORMAL.inv_cdf(share)
    scale = max(abs(d - mean) for d in differences)
    centred = [(d - mean) / scale for d in differences]
    acceleration = sum(c**3 for c in centred) / (6.0 * sum(c * c for c in centred) ** 1.5)
    limits = []
    for quantile in (-z, z):
        shifted = bias + quantile
        adjusted = bias + shifted / max(1e-9, 1.0 - acceleration * shifted)
        rank = _NORMAL.cdf(adjusted) * resamples
        limits.append(means[min(resamples - 1, max(0, round(rank - 0.5)))])
    return MeanDifference(mean, limits[0], limits[1], n, confidence)


def minimum_detectable_difference(
    n: int, *, discordance: float, confidence: float = 0.95, power: float = 0.8
) -> float:
    """Return the smallest difference of paired rates that `n` cases would reveal.

    Args:
        n: Number of pairs; 0 gives 1, because nothing could be seen.
        discordance: Share of pairs on which the two disagree, in [0, 1]. A difference cannot be
            larger than it, so where even that would not show, the discordance needed is returned.
        confidence: Two-sided confidence level of the test.
        power: Chance of detecting the difference, in (0, 1).

    Raises:
        ValueError: An argument is out of range.

    Source: Connor 1987, Biometrics 43:207-211 (sample size of the McNemar test), solved for the
    difference.
    """
    if n < 0 or not 0.0 <= discordance <= 1.0 or not 0.0 < power < 1.0:
        raise ValueError("n must be at least 0, discordance in [0, 1] and power in (0, 1)")
    z_test = _critical_value(confidence)
    z_power = _NORMAL.inv_cdf(power)
    if n == 0:
        return 1.0

    def shortfall(difference: float) -> float:
        share = max(discordance, difference)
        needed = z_test * math.sqrt(share) + z_power * math.sqrt(share - difference * difference)
        return needed - difference * math.sqrt(n)

    return _bisect(shortfall, 0.0, 1.0)


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
