"""Rates: intervals, and two rates measured on the same cases."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_agent_plugin.entities.statistics.numerics import NORMAL, bisect, critical_value


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
    z = critical_value(confidence)
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
    z = critical_value(confidence)
    if min(only_a, only_b) < 0 or only_a + only_b > n:
        raise ValueError(f"discordant pairs {only_a} + {only_b} do not fit into {n} pairs")
    p_value = mcnemar_exact(only_a, only_b)
    if n == 0:
        return PairedDifference(0.0, -1.0, 1.0, 0, 0, 0, p_value, confidence)
    observed = (only_a - only_b) / n
    # The score statistic falls as the hypothesised difference grows: +z at the lower limit.
    low = bisect(lambda d: _tango_score(only_a, only_b, n, d) - z, -1.0, observed)
    high = bisect(lambda d: _tango_score(only_a, only_b, n, d) + z, observed, 1.0)
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
    p_value = 1.0 - NORMAL.cdf(score) if math.isfinite(score) else float(score < 0.0)
    return NonInferiority(
        holds=difference.low > -margin, margin=margin, difference=difference, p_value=p_value
    )


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
    z_test = critical_value(confidence)
    z_power = NORMAL.inv_cdf(power)
    if n == 0:
        return 1.0

    def shortfall(difference: float) -> float:
        share = max(discordance, difference)
        needed = z_test * math.sqrt(share) + z_power * math.sqrt(share - difference * difference)
        return needed - difference * math.sqrt(n)

    return bisect(shortfall, 0.0, 1.0)
